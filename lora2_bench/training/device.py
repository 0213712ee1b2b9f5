"""The device of a cell, and Accelerate's view of it."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from lora2_bench.errors import NotJoined, UserError, first_line
from lora2_bench.experiment.plan import RunOptions

JOIN_SECONDS = "60"
"""How long the processes of one cell wait for each other to start; LORA2_BENCH_JOIN_SECONDS gives another number."""
_COLLECTIVE = timedelta(hours=6)  # lets the others wait for an evaluation


def pick_device(run_options: RunOptions) -> str:
    """`cpu` or `cuda`. Raises UserError where a GPU is asked for and there is none."""
    import torch

    found = torch.cuda.is_available()
    if run_options.device == "cuda" and not found:
        raise UserError("device=cuda: torch finds no GPU here: give device=cpu, or device=auto to take what there is")
    return "cuda" if found and run_options.device != "cpu" else "cpu"


def make_accelerator(precision: str, device: str) -> Accelerator:
    """An Accelerator for one cell, without the state of an earlier cell in this process.

    Under `accelerate launch` it joins the process group. Raises NotJoined where the others do not come in time.
    """
    from torch import distributed

    AcceleratorState._reset_state(reset_partial_state=True)
    joins = os.environ.get("WORLD_SIZE", "1") != "1" and not distributed.is_initialized()
    process_group = InitProcessGroupKwargs(timeout=_join_timeout() if joins else _COLLECTIVE)
    mixed = "bf16" if precision == "bf16" else "no"
    try:
        if joins:
            _look_for_main(_join_timeout().total_seconds())
        accelerator = Accelerator(mixed_precision=mixed, cpu=device == "cpu", kwargs_handlers=[process_group])
    except distributed.DistError as error:
        raise _not_joined(error) from None
    if joins:
        distributed.distributed_c10d._set_pg_timeout(_COLLECTIVE)
        distributed.distributed_c10d._get_default_store().set_timeout(_COLLECTIVE)
    return accelerator


def _join_timeout() -> timedelta:
    text = os.environ.get("LORA2_BENCH_JOIN_SECONDS", JOIN_SECONDS)
    if not text.isdecimal() or not 0 < int(text) <= 10**6:
        raise UserError(f"LORA2_BENCH_JOIN_SECONDS={text[:40]} is not possible: give whole seconds, or unset it")
    return timedelta(seconds=int(text))


def _look_for_main(seconds: float) -> None:
    """Wait until the main process's store is open; raises NotJoined. Torch would print pages while it waits."""
    opens_it = os.environ.get("RANK") == "0" and not os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
    address, limit = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), time.monotonic() + seconds
    while not opens_it:
        try:
            socket.create_connection(address, timeout=max(0.1, limit - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > limit:
                raise _not_joined(error) from None
            time.sleep(0.2)


def _not_joined(error: Exception) -> NotJoined:
    names = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
    size, rank, address, port = (os.environ.get(name, "") for name in names)
    return NotJoined(
        f"WORLD_SIZE={size}: process {rank} did not find the others at {address}:{port} within "
        f"{_join_timeout().seconds} s ({first_line(error)[:200]}): start all with `accelerate launch`, or unset "
        "WORLD_SIZE"
    )
