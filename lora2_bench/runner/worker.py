"""`python -m lora2_bench.runner.worker`: a process that runs the cells it is given, one after another.

It reads one JSON line per cell (id, overrides, log) and answers each with one (id, state, cause). Starting torch takes
seconds, so cells share the process; after an error that is not the cell's own (a broken GPU context, say) it ends, and
its parent starts a fresh one.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from lora2_bench.errors import CellFailed, Interrupted, LockHeld, UserError, first_line
from lora2_bench.files.console import console
from lora2_bench.records.scrub import hide_home


def main() -> None:
    """Run cells until the input ends or a signal arrives."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # only answers may be written there
    sys.stdout, sys.stderr = _HomeHidden(sys.stdout), _HomeHidden(sys.stderr)
    signals_received: list[int] = []  # outside of training: the current cell is finished, no other is begun
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: signals_received.append(received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT))  # blocked until now
    while (job := next_job()) is not None:
        _redirect(Path(job["log"]))
        print(
            f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {socket.gethostname()}: "
            f"python -m lora2_bench {' '.join(job['overrides'])}",
            flush=True,
        )
        state, cause, usable = ("interrupted", None, False) if signals_received else _run(job["id"], job["overrides"])
        if cause:
            print(f"error: {cause}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            channel.write(json.dumps({"id": job["id"], "state": state, "cause": cause}) + "\n")
        except BrokenPipeError:  # the parent has ended
            usable = False
        if signals_received or not usable:
            break
        _free_memory()


class _HomeHidden:
    """A stream for the logs of cells: without tokens, and with `~` for the home folder."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, and return the number of characters that were written."""
        return self._stream.write(hide_home(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def next_job() -> dict[str, Any] | None:
    """The next line of the input: id, overrides and log of a cell; None at its end. Ends the process for any other."""
    line = sys.stdin.buffer.readline()
    if not line:
        return None
    try:
        job = json.loads(line)
        texts = [job["id"], job["log"], *job["overrides"]]
        if isinstance(job["overrides"], list) and all(isinstance(one, str) for one in texts):
            return dict(job)
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    print(
        'error: the input is no JSON line {"id": ..., "overrides": [...], "log": ...}: a sweep starts this process',
        file=sys.stderr,
    )
    sys.exit(2)


def _run(cell_id: str, overrides: list[str]) -> tuple[str, str | None, bool]:
    """Run one cell; returns its state, the cause of a failure, and whether this process can go on."""
    from lora2_bench.config.compose import plan_of  # Hydra's import takes a while, and Ctrl-C may come in it
    from lora2_bench.runner.run import run

    try:
        plan = plan_of(overrides)
        if plan.cell.id != cell_id:
            raise UserError(
                f"these overrides are cell {plan.cell.id} now and were {cell_id} when they were sent: the configs or "
                "the package changed, so send them again"
            )
        run(plan)
    except LockHeld as error:
        return "busy", str(error), True
    except Interrupted as error:
        return "interrupted", str(error), False
    except (UserError, CellFailed) as error:
        return "failed", str(error), True
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {first_line(error)}", False
    return "done", None, True


def _redirect(log: Path) -> None:
    """Send all output, that of libraries too, to the cell's log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def _free_memory() -> None:
    """Free the last cell's memory."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    with console():
        main()
