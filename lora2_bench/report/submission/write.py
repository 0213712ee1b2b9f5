"""The zip of a submission, every file checked before any is written, and a list of what each was made from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.files.paths import below
from lora2_bench.files.writing import write_bytes, write_json
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.records.test_predictions import read_predicted
from lora2_bench.report.records import load_records
from lora2_bench.report.submission.choice import Taken, Wanted, choose
from lora2_bench.report.submission.server import FILES, ServerFile, answers, tsv, zipped

MAJORITY = "0"
"""WNLI's answer where a majority class is asked for: not entailed."""
_RUN = "python -m lora2_bench"


@dataclass
class Submission:
    """What goes into the zip, and what does not.

    Attributes:
        files: name -> content.
        sources: name -> what it was made from.
        lines: the same, to be printed.
        problems: why files are missing, each with its command.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, file: ServerFile, given: list[str], source: dict[str, Any], said: str) -> None:
        """Put a file's answers into the zip."""
        content = tsv(given)
        self.files[file.name] = content
        self.sources[file.name] = {**source, "rows": len(given), "sha256": hashlib.sha256(content).hexdigest()}
        self.lines.append(f"{file.name:<11} {len(given):>6} rows | {said}")


def write_submission(
    results: Path, wanted: Wanted, *, wnli_majority: bool = False, partial: bool = False
) -> tuple[Path, Submission]:
    """Write `results/submission/<model>-<method>....zip` and, with the same name, `.json`: what each file is made from.

    With `wnli_majority` WNLI's file has one answer in all rows, and no run is looked for; with `partial` the files that
    can be made are written, in a zip whose name says so. Raises UserError where a file is missing without `partial`, or
    no run answers any, or the zip cannot be written.
    """
    made = collect(results, wanted, wnli_majority=wnli_majority)
    answered = any("cell" in source for source in made.sources.values())
    if made.problems and not (partial and answered):
        hint = "" if not answered else "; or --partial for a zip without them, which the server refuses"
        raise UserError(f"no zip is written: {'; '.join(made.problems)}{hint}")
    content = zipped(made.files)
    name = wanted.slug + ("-partial" if made.problems else "")
    folder = results / "submission"
    path = below(folder, f"{name}.zip")
    listing = {
        "zip": {"name": path.name, "sha256": hashlib.sha256(content).hexdigest()},
        "files": made.sources,
        "missing": made.problems,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        write_json(path.with_suffix(".json"), listing)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): free some space, or make it writable") from None
    return path, made


def collect(results: Path, wanted: Wanted, *, wnli_majority: bool) -> Submission:
    """Every file that can be made, and why the others cannot."""
    store, made = Store(results), Submission()
    taken = choose(load_records(results), wanted)
    without: list[str] = []
    for task in dict.fromkeys(file.task for file in FILES):
        files = [file for file in FILES if file.task == task]
        if task == "wnli" and wnli_majority:
            (file,) = files
            source = {"constant": MAJORITY, "why": "the majority class was asked for: no run answers it"}
            made.add(file, [MAJORITY] * file.rows, source, f"no run: {MAJORITY} in every row, by --wnli-majority")
        elif task not in taken:
            without.append(task)
        else:
            _add_task(made, files, taken[task], store)
    if without:
        made.problems.insert(0, _no_runs(without, wanted, taken, results))
    order = [file.name for file in FILES]
    made.files = {name: made.files[name] for name in order if name in made.files}
    made.lines.sort(key=lambda line: order.index(line.split()[0]))
    return made


def _add_task(made: Submission, files: list[ServerFile], taken: Taken, store: Store) -> None:
    """Add a task's files, or the one problem that they have."""
    record, found = taken.record, {}
    again = _command(record, store)
    try:
        predicted = read_predicted(store.test_predictions(record.id), record.id)
    except ValueError as error:
        made.problems.append(f"{store.test_predictions(record.id)} cannot be used ({error}): {again}")
        return
    if predicted is None:
        made.problems.append(f"{files[0].task}'s cell {record.id} has no test predictions: {again}")
        return
    try:
        for file in files:
            if file.part not in predicted.logits:
                raise ValueError(f"{file.name} needs predictions of {file.part}, and there are none: {again}")
            found[file] = answers(file, predicted.logits[file.part])
    except ValueError as error:
        made.problems.append(f"{files[0].task}'s cell {record.id}: {error}")
        return
    for file, (given, note) in found.items():
        said = f"{taken.said} | {note}" if note else taken.said
        made.add(file, given, {**_source(taken), **({"note": note} if note else {})}, said)


def _source(taken: Taken) -> dict[str, Any]:
    record = taken.record
    return {
        "cell": record.id,
        "method": record.label,
        "seed": record.cell["seed"],
        "protocol": record.cell["protocol"]["name"],
        record.result["main_metric"]: record.result["best"]["score"],
        "best_of": taken.among,
        "cut": record.cut,
    }


def _command(record: Record, store: Store) -> str:
    """The command that gives a finished cell its test predictions."""
    kept = [one for one in record.run["command"] if not re.match(r"(results|predict_test|rerun)=", one)]
    again = [] if store.weights(record.id).is_file() else ["rerun=true"]
    files = record.cell["data"]["source"] == "local" and not any(one.startswith("data.dir=") for one in kept)
    run = "run GLUE_DIR=DIR" if files else "run"
    return " ".join([run, _RUN, *kept, f"results={store.results}", *again, "predict_test=true"])


def _no_runs(tasks: list[str], wanted: Wanted, taken: Mapping[str, Taken], results: Path) -> str:
    """The tasks without a run, and the command that trains them as the others were."""
    cells = [one.record.cell for one in taken.values()]
    source = cells[0]["data"]["source"] if cells else "hub"
    sizes = {one.record.result["size"]["value"] for one in taken.values()}
    kr = wanted.kr if wanted.kr is not None else sizes.pop() if len(sizes) == 1 else None
    protocol = wanted.protocol or (cells[0]["protocol"]["name"] if cells else "paper")
    parts = [*(["GLUE_DIR=DIR"] if source == "local" else []), _RUN, *(["-m"] if len(tasks) > 1 else [])]
    parts += [f"model={wanted.model}"]
    parts += ["model.path=DIR"] if wanted.model == "local" else []
    parts += [f"method={wanted.method}", *([f"kr={kr}"] if kr is not None else []), f"task={','.join(tasks)}"]
    parts += [f"data={source}", *([f"protocol={protocol}"] if protocol != "paper" else [])]
    parts += [f"seed={wanted.seed}"] if wanted.seed is not None else []
    have = "have" if len(tasks) > 1 else "has"
    command = " ".join([*parts, f"results={results}", "predict_test=true"])
    return f"{', '.join(tasks)} {have} no finished run of {wanted.label} on GLUE's rows: run {command}"
