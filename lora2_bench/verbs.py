"""The commands of `lora2-bench`, by name: one line each, as `python -m lora2_bench NAME` too."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from lora2_bench import __version__
from lora2_bench.errors import UserError
from lora2_bench.files.arguments import PROGRAM, nearest

RUN = "run"
# Name -> where its entry is (module:function), and what it does. An entry reads sys.argv as its `python -m` form does.
VERBS: dict[str, tuple[str, str]] = {
    RUN: ("lora2_bench.__main__:run_cells", "train and score cells; the same without its name: method=lora2 task=rte"),
    "sweep": ("lora2_bench.sweep.command:main", "send a suite's cells that are not done, to this machine or to Slurm"),
    "tune": ("lora2_bench.tune.command:main", "a study: equal trials of every method, then the winners' runs"),
    "status": ("lora2_bench.sweep.status:main", "where a suite's cells are"),
    "tables": ("lora2_bench.report.__main__:main", "records -> the paper's tables"),
    "figures": ("lora2_bench.report.__main__:main", "records -> figures"),
    "report": ("lora2_bench.report.__main__:main", "records -> one page"),
    "audit": ("lora2_bench.report.__main__:main", "the paper's printed figures recomputed"),
    "predict": (
        "lora2_bench.using.command:predict",
        "what a finished cell says of new texts: one, a file, standard input",
    ),
    "export": ("lora2_bench.using.command:export", "a finished cell as a folder for plain transformers and PEFT"),
    "submission": ("lora2_bench.report.submission.command:main", "test predictions -> the zip for GLUE's server"),
    "publish": ("lora2_bench.tracking.publish:main", "mirror finished records to Weights & Biases"),
    "submit": ("lora2_bench.sharing.command:submit", "check records, and pack them into one file to send"),
    "load": ("lora2_bench.sharing.command:load", "check such a file, and put its records beside one's own"),
    "rescore": ("lora2_bench.sharing.command:rescore", "best and last scores again, from stored predictions"),
    "evaluate": ("lora2_bench.serving.command:evaluate", "many cells scored on a task's dev rows by one backbone"),
    "contract": ("lora2_bench.contract.command:main", "what every method promises, checked on one, also of your own"),
    "serve": ("lora2_bench.serving.http.command:main", "an HTTP server that answers with trained adapters"),
    "bench": ("lora2_bench.bench.command:main", "what a training step costs"),
}
_NAMED = ("tables", "figures", "report", "audit")  # one entry, which reads the name itself


def chosen(words: Sequence[str]) -> Callable[[], None]:
    """What the words of a command line ask for, with sys.argv as its entry reads it. Raises UserError for no command.

    Words that begin with no command's name (an override, an option of Hydra's) run cells; no word lists the commands.
    """
    first = words[0] if words else "help"
    if first == "--version":
        return lambda: print(f"{PROGRAM} {__version__}")
    if first == "help":
        if len(words) < 2:
            return lambda: print(overview(), end="")
        words = [words[1], "--help"]
    name = words[0] if words else ""
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        return _entry(RUN)
    if name not in VERBS:
        known = [*VERBS, "help"]
        raise UserError(f"{name} is no command: {nearest(name, known)}; a setting is given as NAME=VALUE")
    sys.argv = [PROGRAM, *words] if name in _NAMED else [f"{PROGRAM} {name}", *words[1:]]
    return _entry(name)


def overview() -> str:
    """The commands, one a line."""
    width = max(map(len, VERBS))
    lines = [f"{PROGRAM} [COMMAND] ...", "", *(f"  {name:{width}}  {about}" for name, (_, about) in VERBS.items())]
    end = f"{PROGRAM} help COMMAND tells what it takes; {PROGRAM} --help, what a cell does."
    return "\n".join([*lines, "", end, ""])


def _entry(name: str) -> Callable[[], None]:
    module, _, function = VERBS[name][0].partition(":")
    entry: Callable[[], None] = getattr(import_module(module), function)
    return entry
