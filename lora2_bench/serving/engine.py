"""One frozen backbone that answers for many adapters: texts to rows, mixed batches to logits, logits to answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.backbones.first_token import compute_first_token_alone, head_alone
from lora2_bench.backbones.load import load_backbone
from lora2_bench.errors import UserError, first_line
from lora2_bench.experiment.plan import RunOptions
from lora2_bench.runner.opened import package_of
from lora2_bench.serving.adapters import Adapter, AdapterStore
from lora2_bench.serving.layers import segmented
from lora2_bench.serving.library import Entry, Library
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.encoding import EncodedSplit, RaggedRows, check_tokenizer
from lora2_bench.tasks.spec import TaskSpec
from lora2_bench.tasks.token_cache import encoder
from lora2_bench.training.device import pick_device
from lora2_bench.training.runtime import set_up_process


@dataclass(frozen=True, eq=False)
class Row:
    """One request's tokens, cut to the entry's length.

    Attributes:
        ids, types: token ids and token type ids (None where the tokenizer has none), int32.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None

    def __len__(self) -> int:
        return len(self.ids)


class Engine:
    """The library's backbone in memory, with as many adapters beside it as `memory` bytes hold.

    All methods may be called from several threads; one batch is computed at a time. Everything is computed in float32.

    Attributes:
        adapters: what is in memory, with counts of loads, hits and evictions.
        device: where it is computed.
    """

    def __init__(self, library: Library, *, memory: int, device: str = "auto", threads: int | None = None) -> None:
        """Load the backbone. Raises UserError where the library is empty, or the backbone's files are not its own."""
        if library.backbone is None:
            raise UserError(library.nothing())
        place = RunOptions(results=library.results, device=device, threads=threads)
        self.device = torch.device(pick_device(place))
        set_up_process(place.threads)
        self.library = library
        self._lock = threading.Lock()
        self._tokenizing = threading.Lock()  # a fast tokenizer is set anew in every call
        self._backbone = _backbone_of(library)
        self._backbone.to(self.device)
        self._model = self._backbone.model.eval()
        self._segments = segmented(self._backbone)
        compute_first_token_alone(self._model)
        self.adapters = AdapterStore(self._backbone, memory, self.device)
        assert self._backbone.tokenizer is not None
        self._tokenizer = self._backbone.tokenizer
        empty = RaggedRows.of([])
        types = empty if "token_type_ids" in self._tokenizer.model_input_names else None
        self._split = EncodedSplit(empty, types, [0], check_tokenizer(self._tokenizer, 1))

    def encode(self, entry: Entry, text: str, text_pair: str | None = None) -> Row:
        """The tokens of a request, cut to the entry's length as its own rows were.

        Raises UserError, in one line, for an empty text, and for a second one that is missing or too much.
        """
        if entry.pair and text_pair is None:
            raise UserError(f"text_pair is missing: task={entry.task} takes two texts")
        if not entry.pair and text_pair is not None:
            raise UserError(f"text_pair is too much: task={entry.task} takes one text")
        texts = {"text": text, **({"text_pair": text_pair} if entry.pair else {})}
        for name, value in texts.items():
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"{name} is empty: give a sentence")
        try:
            with self._tokenizing:
                coded = self._tokenizer(
                    *texts.values(), truncation=True, max_length=entry.max_length, return_attention_mask=False
                )
        except (UnicodeError, TypeError) as error:  # half a surrogate pair
            raise UserError(f"the text cannot be read ({first_line(error)[:80]}): give it as UTF-8") from None
        types = np.array(coded["token_type_ids"], np.int32) if self._split.token_type_ids is not None else None
        return Row(np.array(coded["input_ids"], np.int32), types)

    def encode_split(self, split: Split, spec: TaskSpec, entry: Entry) -> list[Row]:
        """The tokens of a task's rows, as a cell with this length encodes them; from the cache where they are there."""
        with self._tokenizing:
            made = encoder(self._tokenizer, self._backbone.tokenizer_sha256, spec, entry.max_length)(split)
        return [Row(*made[number][:2]) for number in range(len(made))]

    def logits(self, batch: Sequence[tuple[Entry, Row]]) -> list[Tensor | UserError]:
        """Logits (outputs) in float32 on the CPU for each request, in the order given, by one forward pass.

        In the place of a request whose adapter cannot be read stands the error, which `answer` raises: the others are
        answered. A batch holds all of its adapters until its end, whatever `memory` is.
        """
        with self._lock:
            adapters: dict[str, Adapter | UserError] = {}
            for entry, _ in batch:
                if entry.id not in adapters:
                    adapters[entry.id] = self._adapter(entry)
            place = {name: number for number, name in enumerate(adapters)}
            found: list[Tensor | UserError] = []
            good = []
            for number, (entry, _) in enumerate(batch):
                adapter = adapters[entry.id]
                if isinstance(adapter, UserError):
                    found.append(adapter)
                else:
                    found.append(torch.empty(0))
                    good.append((place[entry.id], number, adapter))
            good.sort(key=lambda one: one[:2])
            if good:
                numbers = [number for _, number, _ in good]
                out = self._forward([batch[number][1] for number in numbers], [adapter for *_, adapter in good])
                for number, row in zip(numbers, out, strict=True):
                    found[number] = row[: batch[number][0].outputs].clone()
            return found

    def answer(self, entry: Entry, logits: Tensor | UserError) -> dict[str, Any]:
        """`{"label", "probabilities"}` of the entry's classes, or `{"score"}` of a regression, from `logits`' row.

        Raises UserError where that is an error, or no finite numbers.
        """
        if isinstance(logits, UserError):
            raise logits
        if not bool(torch.isfinite(logits).all()):
            raise UserError(f"cell {entry.id} gives no finite numbers for this text: its weights are not usable")
        if entry.labels is None:
            return {"score": float(logits[0])}
        shares = torch.softmax(logits.double(), 0).tolist()
        return {
            "label": entry.labels[int(logits.argmax())],
            "probabilities": dict(zip(entry.labels, shares, strict=True)),
        }

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The model's inputs for rows, padded on the right to the longest."""
        inputs = self._split.collate([(row.ids, row.types, 0) for row in rows])
        return {name: value.to(self.device) for name, value in inputs.items() if name != "labels"}

    def _adapter(self, entry: Entry) -> Adapter | UserError:
        try:
            return self.adapters.get(entry)
        except UserError as error:
            return error

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Row], adapters: Sequence[Adapter]) -> Tensor:
        """(rows, widest outputs) of rows that stand adapter by adapter."""
        counts: list[int] = []
        kinds: list[Adapter] = []
        for adapter in adapters:
            if kinds and kinds[-1] is adapter:
                counts[-1] += 1
            else:
                kinds.append(adapter)
                counts.append(1)
        with self._segments.of(kinds, counts), head_alone(self._model):
            out: Tensor = self._model(**self.collate(rows)).logits
        return out.float().cpu()


def _backbone_of(library: Library) -> Backbone:
    """The library's backbone from where its files are. Raises UserError."""
    model = library.backbone
    assert model is not None
    package, folder = package_of(model, library.record(next(iter(library.entries.values()))))
    return load_backbone(
        model,
        2,  # of a head that no request sees
        path=None if library.model_path is None else str(library.model_path),
        package=package,
        folder=folder,
    )
