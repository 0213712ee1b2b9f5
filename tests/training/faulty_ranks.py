"""The user's command in several processes, the second of which meets a fault in step 8."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from lora2_bench.__main__ import main


def out_of_memory(*arguments: str) -> None:
    """It runs out of memory; without arguments, the command line's are taken."""

    def greedy(_loss: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes")

    _run(greedy, arguments)


def loss_is_nan(*arguments: str) -> None:
    """Its loss is no number."""
    _run(lambda loss: loss * float("nan"), arguments)


def _run(fault: Callable[[Any], Any], arguments: tuple[str, ...]) -> None:
    from lora2_bench.training import step

    backward, made = step.backward, 0

    def faulty(*values: Any) -> Any:
        nonlocal made
        made += 1
        loss = backward(*values)
        return fault(loss) if made == 8 else loss

    if os.environ["RANK"] == "1":
        step.backward = faulty
    sys.argv[1:] = arguments or sys.argv[1:]
    main()
