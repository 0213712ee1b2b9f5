"""Run several cells of one task and backbone in one process, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from lora2_bench.errors import Interrupted
from lora2_bench.experiment.plan import Plan
from lora2_bench.records.record import Record
from lora2_bench.runner.run import import_trainer, run


def run_packed(plans: Sequence[Plan]) -> list[Record | BaseException]:
    """What `run` returns or raises for each plan, in their order: those that fit train side by side.

    Cells fit that share task, backbone, precision and device; others follow them. After a signal, whatever runs is kept
    in a checkpoint and ends with Interrupted, and what has not begun does too.
    """
    parts: dict[object, list[int]] = {}
    for number, plan in enumerate(plans):
        cell, place = plan.cell, plan.run_options
        key = cell.task, cell.model, cell.train.precision, place.device, place.threads
        parts.setdefault(key, []).append(number)
    found: dict[int, Record | BaseException] = {}
    for numbers in parts.values():
        if any(isinstance(one, Interrupted) for one in found.values()):
            ended: list[Record | BaseException] = [Interrupted(0, 0) for _ in numbers]
        else:
            ended = _side_by_side([plans[number] for number in numbers])
        found.update(zip(numbers, ended, strict=True))
    return [found[number] for number in range(len(plans))]


def _side_by_side(plans: Sequence[Plan]) -> list[Record | BaseException]:
    import_trainer(plans[0])
    from lora2_bench.runner.signals import stop_on_signals
    from lora2_bench.training.device import pick_device
    from lora2_bench.training.pack import Pack
    from lora2_bench.training.runtime import set_up_process

    set_up_process(plans[0].run_options.threads)
    device = pick_device(plans[0].run_options)
    if len(plans) > 1 and device == "cpu":
        print(f"warning: pack={len(plans)} takes longer on a CPU than one cell after another", file=sys.stderr)
    pack = Pack(device)
    ended: list[Record | BaseException] = []
    try:
        with stop_on_signals():
            ended = pack.run([partial(run, plan, pack if len(plans) > 1 else None) for plan in plans])
            for one in ended:
                if isinstance(one, Interrupted):
                    raise one  # so that a job of Slurm's is queued again
    except Interrupted:
        pass
    return ended
