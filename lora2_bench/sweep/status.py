"""`python -m lora2_bench.status suite=NAME [OVERRIDES] [--json]`: where each cell of a sweep is. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.files.arguments import program
from lora2_bench.files.paths import below
from lora2_bench.records.record import DONE, FAILED
from lora2_bench.records.scrub import hide_secrets
from lora2_bench.sweep.cells import plan_cells, requested_cells, results_dir_of, sweep_dir_of, value_of
from lora2_bench.sweep.options import parse
from lora2_bench.sweep.slurm import squeue
from lora2_bench.sweep.states import INTERRUPTED, QUEUED, RUNNING, State, count, count_other_code, states

HELP = """{program} suite=NAME [name=NAME] [results=DIR] [OVERRIDES] [--json]

Where the cells of a sweep are: done, running, queued, failed, interrupted or missing. With the suite's or the sweep's
name alone these are all cells that were requested of the sweep; with overrides, the cells of these overrides.
"""
_NAMES = ("suite=", "results=")


def main() -> None:
    """The command-line entry point. Exit codes: 0, 2 for bad input."""
    arguments = sys.argv[1:]
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(HELP.format(program=program("lora2_bench.status")), end="")
        return
    try:
        options, overrides = parse(arguments)
        sweep_dir, results = sweep_dir_of(overrides, options.name), results_dir_of(overrides)
        by_name = all(override.startswith(_NAMES) for override in overrides)
        cells = requested_cells(sweep_dir) if by_name else []
        if by_name and not cells and options.name is not None and value_of(overrides, "suite") is None:
            raise UserError(_nothing_sent(options.name, results))
        found = states(cells or plan_cells(overrides, sweep_dir, keep=False), results, squeue)
        other_code = count_other_code(found, results)
    except UserError as error:
        print(f"error: {hide_secrets(str(error))}", file=sys.stderr)
        sys.exit(2)
    if options.json:
        values = {"sweep": sweep_dir.name, "counts": count(found), "other_code": other_code}
        print(json.dumps({**values, "cells": [asdict(state) for state in found]}))
    else:
        print("\n".join(page(sweep_dir.name, found, other_code)))


def _nothing_sent(name: str, results: Path) -> str:
    findings = below(results / "studies", name) / "FINDINGS.md"
    if findings.is_file():
        return f"name={name} has sent no cell from here: {findings} says how far the study is"
    return f"name={name} has sent no cell below {results}: give the sweep's name, or the words that it was sent with"


def page(name: str, found: Sequence[State], other_code: int = 0) -> list[str]:
    """The lines that the command prints: counts, then the cells that run, failed or were interrupted, one a line.

    `other_code`: how many finished ones were made by other code than is here.
    """
    counts = count(found)
    lines = [f"{name}: {len(found)} cells: " + ", ".join(f"{number} {state}" for state, number in counts.items())]
    if other_code:
        lines += ["", f"{other_code} of the {counts[DONE]} done were made by other code: rerun=true trains a cell anew"]
    reasons = Counter(state.reason for state in found if state.state == QUEUED and state.reason)
    if reasons:
        lines += [
            "",
            "queued, in Slurm's words:",
            *(f"  {number} {reason}" for reason, number in reasons.most_common()),
        ]
    for title, describe in ((RUNNING, _running), (FAILED, _ended), (INTERRUPTED, _ended)):
        shown = [state for state in found if state.state == title]
        if shown:
            lines += ["", f"{title}:", *(f"  {state.label} | {describe(state)}" for state in shown)]
    if counts[DONE] < len(found) and not counts[RUNNING] + counts[QUEUED]:
        lines += [
            "",
            f"{len(found) - counts[DONE]} to do: python -m lora2_bench.sweep, with the same arguments, sends them",
        ]
    return lines


def _running(state: State) -> str:
    left = "time left not known yet" if state.seconds_left is None else f"{duration(state.seconds_left)} left"
    return f"{_progress(state)}, {left}, on {state.host} (process {state.pid})"


def _ended(state: State) -> str:
    at = f"{_progress(state)}, " if state.state == INTERRUPTED else ""
    return f"{at}{state.reason}" + (f" | {state.log}" if state.log else "")


def _progress(state: State) -> str:
    if state.step is None:
        return "no step yet"
    score = "not scored yet" if state.score is None else f"score {state.score:.4f} (best {state.best:.4f})"
    return f"step {state.step}/{state.total}, {score}"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
