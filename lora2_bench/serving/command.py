"""`lora2-bench evaluate`: many cells scored over a task's dev rows by one frozen backbone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora2_bench.errors import UserError
from lora2_bench.files.arguments import OneLineParser, folder, program, whole_number
from lora2_bench.files.paths import file_to_write
from lora2_bench.files.writing import write_json
from lora2_bench.records.scrub import hide_secrets
from lora2_bench.serving.library import Entry, Library, check_fits
from lora2_bench.tasks.spec import ALL_TASKS

if TYPE_CHECKING:  # it imports torch
    from lora2_bench.serving.evaluate import Scored

ALL = "all"


def evaluate() -> None:
    """The entry. Exit codes: 0, 1 where a cell that was asked for is left out, or all are, 2 for bad input."""
    parser = OneLineParser(
        prog=program("lora2_bench evaluate"),
        description="Score many finished cells over a task's dev rows, in batches that mix them: one pass of the "
        "frozen backbone a batch. Their own task scores a store again; another of the same labels is a transfer.",
    )
    parser.add_argument(
        "--cells", nargs="+", required=True, metavar="ID", help="ids, words such as 'method=lora seed=0', or all"
    )
    parser.add_argument("--task", required=True, choices=tuple(ALL_TASKS), help="whose dev rows")
    parser.add_argument("--results", type=folder, default=Path("results"), help="where cells/ is")
    parser.add_argument("--batch", type=whole_number(1, 4096), default=64, help="rows of one pass (64)")
    parser.add_argument("--memory", type=whole_number(1, 10**6), default=1024, help="MiB of adapters kept (1024)")
    parser.add_argument("--model", help="which backbone, where cells are of several")
    parser.add_argument("--base", metavar="DIR", help="the folder of a backbone of your own (model=local)")
    parser.add_argument("--data-dir", help="GLUE's files, for cells of data=local (default: GLUE_DIR)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=whole_number(1, 1024), help="CPU threads (default: all cores)")
    parser.add_argument("--out", help="also write the scores as JSON to this file")
    given = parser.read()
    scored: list[Scored] = []
    try:
        out = None if given.out is None else file_to_write(given.out, "--out")
        library = Library(given.results, given.model, model_path=given.base)
        entries, left = _chosen(library, given.cells, given.task)
        if entries:
            # torch and transformers take seconds: a wrong word must not wait for them
            from lora2_bench.serving.engine import Engine
            from lora2_bench.serving.evaluate import evaluate as scores_of
            from lora2_bench.serving.evaluate import table

            engine = Engine(library, memory=given.memory * 2**20, device=given.device, threads=given.threads)
            scored, failed = scores_of(engine, entries, given.task, batch=given.batch, data_dir=given.data_dir)
            left += map(str, failed)
            print(table(scored, given.task))
            if out is not None:
                write_json(out, {"task": given.task, "cells": [one.to_dict() for one in scored], "left_out": left})
                print(f"written: {out}")
    except UserError as error:
        parser.stop(hide_secrets(str(error)))
    except OSError as error:
        parser.stop(f"{error.filename} cannot be written ({error.strerror}): give another --out")
    for line in left:
        print(f"left out: {hide_secrets(line)}", file=sys.stderr)
    if not entries:
        parser.stop(f"no cell is left to score on task={given.task}: the lines above say why")
    sys.exit(1 if not scored or (left and given.cells != [ALL]) else 0)


def _chosen(library: Library, asked: Sequence[str], task: str) -> tuple[list[Entry], list[str]]:
    """The entries that fit the task, each once, and a line for each that was asked for and does not."""
    if not library.entries:
        raise UserError(library.nothing())
    entries: dict[str, Entry] = {}
    left = []
    if list(asked) == [ALL]:
        entries = dict(library.entries)
        left = [f"cell {name}: {why}" for name, why in library.refused.items()]
    else:
        for words in asked:
            if words in library.refused:
                left.append(f"cell {words}: {library.refused[words]}")
            else:
                entries |= {entry.id: entry for entry in library.fitting(words)}
    fitting = []
    for entry in entries.values():
        try:
            check_fits(entry, ALL_TASKS[task])
            fitting.append(entry)
        except UserError as error:
            left.append(str(error))
    return fitting, left
