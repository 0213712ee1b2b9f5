"""Processes for tests that need several: forked from a server that has imported PyTorch and PEFT, which takes seconds.

They are processes as any other: they run the user's entry, are signalled and killed, and end with its exit code. The
package itself is imported in each of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

LIBRARIES = ["transformers.models.auto.modeling_auto", "accelerate", "peft", "datasets", "evaluate"]

Action = Callable[..., None]


class Forked:
    """A process that runs `action(*arguments)` with more of an environment; what it prints goes to two files."""

    def __init__(self, folder: Path, name: str, action: Action, *arguments: str, **environment: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        texts = (str(self.out), str(self.err))
        self.process: BaseProcess = context.Process(target=_begin, args=(texts, environment, action, arguments))
        self.process.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self.process.exitcode

    def communicate(self, timeout: float = 100.0) -> tuple[str, str]:
        """Wait for its end; returns what it printed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"no end within {timeout} s: {self.err.read_text()}")
        return self.out.read_text(), self.err.read_text()


def _begin(texts: tuple[str, str], environment: dict[str, str], action: Action, arguments: tuple[str, ...]) -> None:
    for number, text in enumerate(texts, start=1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    # multiprocessing leaves no standard streams of the parent's; Ctrl-C and SIGTERM are a fresh process's own.
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    try:
        action(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def bench(*arguments: str) -> None:
    """`python -m lora2_bench ARGUMENTS`."""
    from lora2_bench.__main__ import main

    sys.argv = ["lora2_bench", *arguments]
    main()


def run_ranks(
    folder: Path, *arguments: str, count: int = 2, action: Action = bench, timeout: float = 300.0
) -> tuple[list[int], str, str]:
    """The processes of one cell, with the environment that `accelerate launch` gives them, to their end.

    Returns the exit codes by rank and what all of them printed; a rank that would wait for another in vain is killed
    by `timeout`.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as the launcher's own
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.monotonic_ns()}-rank"
    ranks = [
        Forked(folder, f"{name}{rank}", action, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(count)
    ]
    printed = [rank.communicate(timeout) for rank in ranks]
    codes = [rank.poll() for rank in ranks]
    return [code for code in codes if code is not None], "".join(o for o, _ in printed), "".join(e for _, e in printed)
