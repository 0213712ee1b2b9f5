"""Tokenised splits, kept without padding, and their collation into padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.spec import TaskSpec

# A tokenizer of the language leaves few words unknown; one with an empty or foreign vocabulary nearly all.
_MOST_UNKNOWN = 0.9


@dataclass(frozen=True)
class RaggedRows:
    """Integer rows of different lengths in one array.

    Attributes:
        values: (total length,) int32, row after row.
        ends: (rows,) int64, the end of each row in `values`.
    """

    values: NDArray[np.int32]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> RaggedRows:
        """The rows given as sequences of integers."""
        values = np.fromiter(chain.from_iterable(rows), np.int32)
        return cls(values, np.cumsum([len(row) for row in rows], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.values[self.ends[index - 1] if index else 0 : self.ends[index]]

    def lengths(self) -> list[int]:
        """The length of every row."""
        counts: list[int] = np.diff(self.ends, prepend=0).tolist()
        return counts


Row = tuple[NDArray[np.int32], NDArray[np.int32] | None, float]
"""Token ids, token type ids (or None) and label of one row."""


@dataclass(frozen=True)
class EncodedSplit(Dataset[Row]):
    """A tokenised split.

    Attributes:
        input_ids: token ids of every row.
        token_type_ids: token type ids of every row; None where the tokenizer has none.
        labels: class ids, or scores of a regression.
        pad: the token id and the token type id of padding.
    """

    input_ids: RaggedRows
    token_type_ids: RaggedRows | None
    labels: list[int] | list[float]
    pad: tuple[int, int]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> Row:
        return (
            self.input_ids[index],
            None if self.token_type_ids is None else self.token_type_ids[index],
            self.labels[index],
        )

    def lengths(self) -> list[int]:
        """Tokens per row."""
        return self.input_ids.lengths()

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """One batch, padded on the right to its longest row: input_ids, attention_mask (rows, width), labels."""
        ids, types, labels = zip(*rows, strict=True)
        lengths = torch.tensor([len(row) for row in ids])
        dtype = torch.float32 if isinstance(self.labels[0], float) else torch.int64
        batch = {
            "input_ids": _padded(ids, self.pad[0]),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            "labels": torch.tensor(labels, dtype=dtype),
        }
        if self.token_type_ids is not None:
            batch["token_type_ids"] = _padded(types, self.pad[1])
        return batch


def _padded(rows: Sequence[NDArray[np.int32]], fill: int) -> Tensor:
    padded = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


def encode(
    split: Split, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, *, must_know: bool = True
) -> EncodedSplit:
    """Tokenise a split, pairs cut to `max_length` tokens from the longer side.

    Raises UserError where the tokenizer knows hardly any word, unless it need not (`must_know`).
    """
    pad = check_tokenizer(tokenizer, max_length)
    columns = [split.texts[name] for name in spec.columns]
    coded = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False)
    types = RaggedRows.of(coded["token_type_ids"]) if "token_type_ids" in tokenizer.model_input_names else None
    ids = RaggedRows.of(coded["input_ids"])
    if must_know:
        _check_known(ids, tokenizer)
    return EncodedSplit(ids, types, split.labels, pad)


def _check_known(ids: RaggedRows, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where the tokenizer knows hardly any of the words, as one with another vocabulary does."""
    unknown = tokenizer.unk_token_id
    frame = [number for number in tokenizer.all_special_ids if number != unknown]
    words = ids.values[~np.isin(ids.values, frame)]
    share = float(np.mean(words == unknown)) if len(words) else 0.0
    if share > _MOST_UNKNOWN:
        raise UserError(f"the tokenizer knows {1 - share:.0%} of the words: give the backbone's own tokenizer files")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[int, int]:
    """The id and the type id of padding. Raises UserError without padding, or for a length above the backbone's."""
    longest = getattr(tokenizer, "model_max_length", max_length)
    if max_length > longest:
        raise UserError(f"train.max_length={max_length} is above the backbone's {longest} tokens: give less")
    if tokenizer.pad_token_id is None:
        raise UserError("the tokenizer has no padding token: save it with one (tokenizer.pad_token)")
    return tokenizer.pad_token_id, tokenizer.pad_token_type_id
