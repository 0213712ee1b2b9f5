"""A stored cell's model, and what it predicts of new rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lora2_bench.errors import CellFailed
from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.base import at_rank
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.runner.opened import require_weights
from lora2_bench.runner.stored import stored_method
from lora2_bench.tasks.data import unlabelled
from lora2_bench.tasks.encoding import encode
from lora2_bench.tasks.spec import TaskSpec
from lora2_bench.training.device import make_accelerator, pick_device
from lora2_bench.training.evaluation import logits_of
from lora2_bench.using.prediction import Prediction

_ROWS_AT_ONCE = 256
"""Rows that are tokenised and sorted by length together: the progress bar moves after each such part."""


class Predictor:
    """A finished cell's model at its best checkpoint, at its plan's `export.rank`, for any number of rows.

    Raises UserError where the cell kept no weights, or they are not those that it trained.
    """

    def __init__(self, plan: Plan, record: Record) -> None:
        store = Store(plan.run_options.results)
        require_weights(store, record)
        self._plan, self._step = plan, record.result["best"]["step"]
        self._accelerator = make_accelerator(plan.cell.train.precision, pick_device(plan.run_options))
        asked = f"CELL={record.id}"
        self._method = stored_method(plan, store, record, asked, str(self._accelerator.device))

    def logits(self, texts: Sequence[Sequence[str]], on_rows: Callable[[int], object] | None = None) -> Tensor:
        """(rows, outputs) float32 logits on the CPU.

        Args:
            texts: one column of texts, or two of a task on pairs.
            on_rows: called with the number of further rows whenever some are done.

        Raises:
            CellFailed: for outputs that are no finite numbers, and OutOfMemory where a batch does not fit.
        """
        spec, train, place = self._plan.cell.spec, self._plan.cell.train, self._plan.run_options
        backbone = self._method.backbone
        assert backbone.tokenizer is not None
        parts = []
        for start in range(0, len(texts[0]), _ROWS_AT_ONCE):
            columns = {
                name: list(column[start : start + _ROWS_AT_ONCE])
                for name, column in zip(spec.columns, texts, strict=True)
            }
            rows = encode(
                unlabelled(spec, columns, "rows"), spec, backbone.tokenizer, train.max_length, must_know=False
            )
            with at_rank(self._method, place.export.rank):
                found = logits_of(
                    backbone.model,
                    rows,
                    spec.num_labels,
                    self._accelerator,
                    place.eval_batch_size,
                    self._step,
                    "predicting",
                )
            parts.append(found)
            if on_rows is not None:
                on_rows(len(rows))
        found = torch.cat(parts)
        if not torch.isfinite(found).all():
            raise CellFailed(self._step, "the model's outputs are no finite numbers")
        return found

    def predict(
        self, texts: Sequence[Sequence[str]], on_rows: Callable[[int], object] | None = None
    ) -> list[Prediction]:
        """A prediction for each row; arguments and errors are those of `logits`."""
        return predictions_of(self._plan.cell.spec, self.logits(texts, on_rows))


def predictions_of(spec: TaskSpec, logits: Tensor) -> list[Prediction]:
    """The predictions that a task's logits (rows, outputs) mean."""
    if spec.is_regression:
        return [Prediction(None, {}, row[0], tuple(row)) for row in logits.tolist()]
    shares = logits.double().softmax(-1).tolist()
    return [
        Prediction(spec.labels[number], dict(zip(spec.labels, share, strict=True)), None, tuple(row))
        for number, share, row in zip(logits.argmax(-1).tolist(), shares, logits.tolist(), strict=True)
    ]
