"""`python -m lora2_bench.runner.worker`: a process that runs the cells it is given, one after another.

It reads one JSON line per pack, a list of cells (id, overrides, log), most often of one, and answers it with one, how
each cell ended (id, state, cause). Starting torch takes seconds, so cells share the process; after an error that is not
the cell's own (a broken GPU context, say) it ends, and its parent starts a fresh one.
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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from lora2_bench.errors import CellFailed, Interrupted, LockHeld, UserError, first_line
from lora2_bench.experiment.plan import Plan
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
    usable = True
    while usable and (pack := next_pack()) is not None:
        for cell in reversed(pack):  # all write to the log of the first
            _redirect(Path(cell["log"]))
            beside = "" if cell is pack[0] else f" beside {pack[0]['id']}, in whose log the rest stands"
            print(
                f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {socket.gethostname()}: "
                f"python -m lora2_bench {' '.join(cell['overrides'])}{beside}",
                flush=True,
            )
        endings = [("interrupted", None, False)] * len(pack) if signals_received else _run(pack)
        answers = []
        for cell, (state, cause, goes_on) in zip(pack, endings, strict=True):
            usable = usable and goes_on
            if cause:
                named = "" if len(pack) == 1 else f"cell {cell['id']}: "
                print(f"error: {named}{cause}", file=sys.stderr)
            answers.append({"id": cell["id"], "state": state, "cause": cause})
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            channel.write(json.dumps(answers) + "\n")
        except BrokenPipeError:  # the parent has ended
            usable = False
        if signals_received:
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


def next_pack() -> list[dict[str, Any]] | None:
    """The next line of the input: id, overrides and log of each cell; None at its end. Ends the process for others."""
    line = sys.stdin.buffer.readline()
    if not line:
        return None
    try:
        pack = json.loads(line)
        texts = [text for cell in pack for text in (cell["id"], cell["log"], *cell["overrides"])]
        lists = [pack, *(cell["overrides"] for cell in pack)]
        if pack and all(isinstance(one, list) for one in lists) and all(isinstance(text, str) for text in texts):
            return list(pack)
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    print(
        'error: the input is no JSON line [{"id": ..., "overrides": [...], "log": ...}]: a sweep starts this process',
        file=sys.stderr,
    )
    sys.exit(2)


Ending = tuple[str, str | None, bool]
"""State of a cell, the cause of a failure, and whether this process can go on."""


def _run(pack: Sequence[dict[str, Any]]) -> list[Ending]:
    """Run cells, side by side where there are several; returns how each ended."""
    plans: list[Plan] = []
    endings: dict[str, Ending] = {}
    begun: list[str] = []
    for cell in pack:
        planned = _ending(partial(_plan, cell["id"], cell["overrides"]), plans.append)
        if planned[0] == "done":
            begun.append(cell["id"])
        else:
            endings[cell["id"]] = planned
    if len(plans) == 1:
        from lora2_bench.runner.run import run

        endings[begun[0]] = _ending(partial(run, plans[0]))
    elif plans:
        from lora2_bench.runner.packed import run_packed

        ends = run_packed(plans)
        endings |= {name: _ending(partial(_raise, end)) for name, end in zip(begun, ends, strict=True)}
    return [endings[cell["id"]] for cell in pack]


def _plan(cell_id: str, overrides: list[str]) -> Plan:
    """The plan of a cell that was sent. Raises UserError where its overrides are another cell now."""
    from lora2_bench.config.compose import plan_of  # Hydra's import takes a while, and Ctrl-C may come in it

    plan = plan_of(overrides)
    if plan.cell.id != cell_id:
        raise UserError(
            f"these overrides are cell {plan.cell.id} now and were {cell_id} when they were sent: the configs or "
            "the package changed, so send them again"
        )
    return plan


def _raise(end: Any) -> None:
    if isinstance(end, BaseException):
        raise end


def _ending(call: Callable[[], Any], done: Callable[[Any], object] = lambda _: None) -> Ending:
    """How a call ends; `done` takes what it returns."""
    try:
        done(call())
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
