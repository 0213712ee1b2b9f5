"""argparse for the small commands: an error is one line that names the nearest option, with exit code 2."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lora2_bench.errors import UserError
from lora2_bench.files.paths import results_folder

PROGRAM = "lora2-bench"


def program(module: str) -> str:
    """How the command at hand was called: as a command of PROGRAM, or as a module."""
    return sys.argv[0] if sys.argv[0].partition(" ")[0] == PROGRAM else f"python -m {module}"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that takes whole names of options alone, and ends in one line."""

    def __init__(self, **options: Any) -> None:
        self._options: list[str] = []
        super().__init__(**options, allow_abbrev=False)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As argparse's; the names are kept, for errors."""
        self._options += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **options)

    def read(self) -> argparse.Namespace:
        """The command line's arguments; an unknown option is named before anything else."""
        for word in sys.argv[1:]:
            option = word.partition("=")[0]
            if option.startswith("--") and option not in self._options:
                self.stop(f"{option} is not an option: {nearest(option, self._options)}")
        return self.parse_args()

    def error(self, message: str) -> NoReturn:
        """End with argparse's message in the package's words."""
        found = re.match(r"argument (\S+): (.*)", message, re.DOTALL)
        name, reason = (found[1].split("/")[0], found[2]) if found else ("", message)
        if choice := re.match(r"invalid choice: '(.*)' \(choose from (.*)\)$", reason, re.DOTALL):
            choices = choice[2].replace("'", "").split(", ")
            value = f"{name} {choice[1]}" if name.startswith("-") else choice[1]
            self.stop(f"{value} is not known: {nearest(choice[1], choices)}")
        if reason.startswith("expected "):
            self.stop(f"{name} has no value: give {name} VALUE")
        if extra := re.match(r"unrecognized arguments: (\S+)", reason):
            name, is_setting, value = extra[1].partition("=")
            if is_setting and f"--{name}" in self._options:
                self.stop(f"{extra[1]} is not how it is given here: give --{name} {value}")
            kind = "is not an option" if extra[1].startswith("-") else "is one argument too many"
            self.stop(f"{extra[1]} {kind}: leave it out")
        self.stop(f"{name} {reason}".strip())

    def stop(self, line: str) -> NoReturn:
        """End with one line and exit code 2."""
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean X?`, or all that are known where none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `low` to `high`."""

    def number(text: str) -> int:
        if re.fullmatch(r"-?[0-9]{1,12}", text) and low <= int(text) <= high:
            return int(text)
        below = re.fullmatch(r"-?[0-9]{1,12}", text) and int(text) < low
        allowed = f"at least {low}" if below else f"a whole number from {low} to {high}"
        raise argparse.ArgumentTypeError(f"{text[:40]} is not possible: give {allowed}")

    return number


def folder(text: str) -> Path:
    """The type of --results."""
    try:
        return results_folder(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("results=").lstrip()) from None
