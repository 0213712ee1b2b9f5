"""Predictions of the test rows, which have no labels: by a cell at its end, or from its kept weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from lora2_bench.errors import CellFailed
from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.base import Method
from lora2_bench.records.record import Record
from lora2_bench.records.store import TEST_PREDICTIONS, Store
from lora2_bench.records.test_predictions import Predicted, write_predicted
from lora2_bench.runner.stored import stored_method
from lora2_bench.tasks.data import texts_hash
from lora2_bench.tasks.sources import load_test_rows
from lora2_bench.tasks.token_cache import encoder
from lora2_bench.training.device import make_accelerator, pick_device
from lora2_bench.training.evaluation import logits_of
from lora2_bench.training.ranks import Ranks


def predict_test(plan: Plan, method: Method, accelerator: Accelerator, step: int) -> Predicted:
    """What the method predicts of its task's test rows with the weights that are in place, those of `step`.

    Raises CellFailed for outputs that are no finite numbers, and OutOfMemory where a batch does not fit.
    """
    cell, place, backbone = plan.cell, plan.run_options, method.backbone
    assert backbone.tokenizer is not None
    encode = encoder(backbone.tokenizer, backbone.tokenizer_sha256, cell.spec, cell.train.max_length)
    logits, rows = {}, {}
    for name, split in load_test_rows(cell.task, cell.data.source, glue_dir=place.data_dir).items():
        found = logits_of(
            backbone.model,
            encode(split),
            cell.spec.num_labels,
            accelerator,
            place.eval_batch_size,
            step,
            f"predicting {name}",
        )
        if not torch.isfinite(found).all():
            raise CellFailed(step, f"the model's outputs for {name} are no finite numbers")
        logits[name], rows[name] = found.numpy(), texts_hash(split)
    return Predicted(logits, rows)


def predict_finished(plan: Plan, store: Store, record: Record, ranks: Ranks) -> Path:
    """Predict the test rows with a finished cell's kept weights, and put the predictions beside its record.

    A collective: every process makes its accelerator, and the main one predicts. Raises as `predict_test` does, and
    UserError where the weights cannot be used or the file cannot be written.
    """
    device = pick_device(plan.run_options)
    accelerator = make_accelerator(plan.cell.train.precision, device)

    def predict() -> Path:
        method = stored_method(plan, store, record, "predict_test=true", str(accelerator.device))
        predicted = predict_test(plan, method, accelerator, record.result["best"]["step"])
        write = partial(write_predicted, cell_id=record.id, predicted=predicted)
        return store.add(record.id, TEST_PREDICTIONS, write)

    return ranks.on_main(predict)
