"""Rows -> token ids -> padded batches of similar length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.spec import TaskSpec

# Batches are sorted by length within windows of this many batches: little padding, and still shuffled.
_WINDOW = 32


@dataclass(frozen=True)
class Encoded(Dataset[dict[str, object]]):
    """A tokenised split.

    Attributes:
        ids: one list of token ids per row.
        types: token type ids, where the tokenizer has them.
        labels: class ids or scores.
        pad: id and type id of padding.
    """

    ids: list[list[int]]
    types: list[list[int]] | None
    labels: list[int] | list[float]
    pad: tuple[int, int]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, object]:
        row: dict[str, object] = {"ids": self.ids[index], "label": self.labels[index]}
        if self.types is not None:
            row["types"] = self.types[index]
        return row

    def lengths(self) -> list[int]:
        """Tokens per row."""
        return [len(row) for row in self.ids]

    def collate(self, rows: Sequence[dict[str, object]]) -> dict[str, Tensor]:
        """One batch, padded on the right to its longest row: input_ids, attention_mask (rows, width), labels."""
        ids = [row["ids"] for row in rows]
        width = max(len(row) for row in ids)  # type: ignore[arg-type]
        dtype = torch.float32 if isinstance(self.labels[0], float) else torch.int64
        batch = {
            "input_ids": _padded(ids, width, self.pad[0]),
            "attention_mask": _padded([[1] * len(row) for row in ids], width, 0),  # type: ignore[arg-type]
            "labels": torch.tensor([row["label"] for row in rows], dtype=dtype),
        }
        if self.types is not None:
            batch["token_type_ids"] = _padded([row["types"] for row in rows], width, self.pad[1])
        return batch


def _padded(rows: Sequence[object], width: int, fill: int) -> Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])  # type: ignore[misc, arg-type]


def encode(split: Split, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Tokenise a split, pairs cut to `max_length` tokens from the longer side."""
    longest = getattr(tokenizer, "model_max_length", max_length)
    if max_length > longest:
        raise UserError(f"train.max_length={max_length} is above the backbone's {longest} tokens: give less")
    columns = [split.texts[name] for name in spec.columns]
    coded = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False)
    types = coded["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else None
    if tokenizer.pad_token_id is None:
        raise UserError("the tokenizer has no padding token: save it with one (tokenizer.pad_token)")
    pad = (tokenizer.pad_token_id, tokenizer.pad_token_type_id)
    return Encoded(coded["input_ids"], types, split.labels, pad)


class BucketSampler(Sampler[list[int]]):
    """Batches of row numbers for one epoch: shuffled, rows of a batch alike in length, the same for a (seed, epoch).

    The order depends on lengths, batch size, seed and epoch alone: every method sees the same batches.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.skip = 0

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch, counted from 0, that the next iteration gives, without its first `skip` batches.

        Not called `set_epoch`: Accelerate calls a method of that name with its own count, which starts at 0 again in a
        run that continues.
        """
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        window = self.batch_size * _WINDOW
        batches: list[list[int]] = []
        for start in range(0, len(order), window):
            part = sorted(order[start : start + window], key=lambda row: self.lengths[row])
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        for place in torch.randperm(len(batches), generator=generator).tolist()[self.skip :]:
            yield batches[place]


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of row numbers for an evaluation: longest rows first, so that too large a batch fails at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
