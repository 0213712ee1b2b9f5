"""The device of a cell, and Accelerate's view of it."""

from __future__ import annotations

from datetime import timedelta

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import RunOptions


def pick_device(run_options: RunOptions) -> str:
    """`cpu` or `cuda`. Raises UserError where a GPU is asked for and there is none."""
    import torch

    found = torch.cuda.is_available()
    if run_options.device == "cuda" and not found:
        raise UserError("device=cuda: torch finds no GPU here: give device=cpu, or device=auto to take what there is")
    return "cuda" if found and run_options.device != "cpu" else "cpu"


def make_accelerator(precision: str, device: str) -> Accelerator:
    """An Accelerator for one cell, without the state of an earlier cell in this process.

    Under `accelerate launch` it joins the process group, whose timeout lets the others wait for an evaluation.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    process_group = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    mixed = "bf16" if precision == "bf16" else "no"
    return Accelerator(mixed_precision=mixed, cpu=device == "cpu", kwargs_handlers=[process_group])
