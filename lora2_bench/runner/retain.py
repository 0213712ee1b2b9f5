"""What a cell has forgotten: measured at its end, or from its kept weights, and put beside its record."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lora2_bench.backbones.folder import find_folder, weights_files
from lora2_bench.backbones.reading import read_weights
from lora2_bench.experiment.plan import MEASURES, Plan
from lora2_bench.files.digests import stamped
from lora2_bench.methods.base import Method
from lora2_bench.records.record import Record
from lora2_bench.records.retention import SCHEMA, read_retention, write_retention
from lora2_bench.records.scrub import scrub
from lora2_bench.records.store import RETENTION, Store
from lora2_bench.retention.measure import Subject, measure
from lora2_bench.retention.rows import Source
from lora2_bench.runner.foreign import blamed
from lora2_bench.runner.setup import backbone_of
from lora2_bench.runner.stored import stored_method
from lora2_bench.training.device import make_accelerator, pick_device
from lora2_bench.training.machine import versions
from lora2_bench.training.ranks import Ranks


def forgotten(plan: Plan, method: Method, step: int) -> dict[str, Any]:
    """Measure what the method's backbone has forgotten with the weights in place, those of `step`, as it is stored.

    Torch's random generators and the model are left as they were. What cannot be measured is told on stderr and in what
    is returned. Raises OutOfMemory where a batch does not fit.
    """
    cell, place = plan.cell, plan.run_options
    wall, cpu = time.perf_counter(), _cpu_seconds()
    with torch.random.fork_rng([]):
        base = backbone_of(plan)  # which draws a head
    base.to(next(method.backbone.model.parameters()).device)
    subject = Subject(
        method.backbone, base, partial(_tensors, plan), cell.train.max_length, place.eval_batch_size, step
    )
    with blamed(type(method), "a forward pass"):
        found = measure(subject, Source.of(cell, place.data_dir), place.retention)
    missing = {name: scrub(why) for name, why in found["missing"].items()}
    for name, why in missing.items():
        print(f"warning: retention: {name} is not measured: {why}", file=sys.stderr)
    return {
        "schema": SCHEMA,
        "cell": cell.id,
        "step": step,
        "asked": list(place.retention),
        **found,
        "missing": missing,
        "run": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - wall, 3),
            "cpu_seconds": round(_cpu_seconds() - cpu, 3),
            "versions": versions(),
        },
    }


def retain_finished(plan: Plan, store: Store, record: Record, ranks: Ranks) -> Path:
    """Measure a finished cell from its kept weights; what was asked for before is measured again too.

    A collective: every process makes its accelerator, and the main one measures. Returns the file. Raises as
    `forgotten` does, and UserError where the weights cannot be used or the file cannot be written.
    """
    accelerator = make_accelerator(plan.cell.train.precision, pick_device(plan.run_options))

    def from_weights() -> Path:
        known = None
        with suppress(ValueError):  # told where it was looked up
            known = read_retention(store.retention(record.id), record.id)
        before = [] if known is None else known["asked"]
        wanted = tuple(name for name in MEASURES if name in before or name in plan.run_options.retention)
        asked = f"retention=[{','.join(plan.run_options.retention)}]"
        method = stored_method(plan, store, record, asked, str(accelerator.device))
        more = replace(plan, run_options=replace(plan.run_options, retention=wanted))
        values = forgotten(more, method, record.result["best"]["step"])
        return store.add(record.id, RETENTION, partial(write_retention, values=values))

    return ranks.on_main(from_weights)


def _tensors(plan: Plan) -> dict[str, torch.Tensor]:
    """What the backbone's weights files hold, the head of its pretraining among it where they have one."""
    model, place = plan.cell.model, plan.run_options
    root = find_folder(model, path=place.model_path, package=place.model_package, folder=place.model_folder)
    files = weights_files(root, f"model={model.name}", is_pinned=model.source == "hub")
    return read_weights(stamped(files))


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system
