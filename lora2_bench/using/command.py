"""`lora2-bench predict` and `lora2-bench export`: a finished cell put to use. Bad input ends before torch is there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from lora2_bench.errors import CellFailed, UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.files.arguments import OneLineParser, folder, program, whole_number
from lora2_bench.files.paths import file_to_write, shortened, user_path
from lora2_bench.files.writing import write_text
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.runner.opened import find_cell, open_cell, require_weights
from lora2_bench.tasks.spec import TaskSpec
from lora2_bench.using.rows import FORMATS, BadRows, TextRows, given_rows, read_rows

_STDIN = "-"


def predict() -> None:
    """The entry of `predict`. Exit codes: 0, 2 for bad input, 1 where the model's outputs are no numbers."""
    parser = OneLineParser(
        prog=program("lora2_bench predict"),
        description="What a finished cell predicts of new rows: a text, a file of them, or standard input (a text a "
        "line; a pair with a tab between).",
    )
    _add_cell(parser)
    parser.add_argument("--text", help="one text: it is answered by one line")
    parser.add_argument("--text-pair", help="its second text, for a task on pairs")
    parser.add_argument("--file", help="rows as .tsv, .csv or .jsonl, with the task's columns or text and text_pair")
    parser.add_argument("--format", choices=FORMATS, help="of a file with another ending, or of standard input")
    parser.add_argument("--out", help="the file to write, a JSON object a row; standard output without it")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument("--threads", type=whole_number(1, 1024), help="CPU threads; all cores without it")
    parser.add_argument("--eval-batch-size", type=whole_number(1, 2**16), default=64, help="rows a batch")
    given = parser.read()
    try:
        plan, record = _opened(given, device=given.device, threads=given.threads, eval_batch_size=given.eval_batch_size)
        spec, label = plan.cell.spec, _label(plan, record)
        out = _output(given)
        rows = _rows(given, spec)
        require_weights(Store(plan.run_options.results), record)
        from lora2_bench.using.predictor import Predictor  # torch and transformers take seconds

        predictor = Predictor(plan, record)
        with tqdm(total=len(rows), desc=f"{spec.name} {label}", unit="row", disable=given.text is not None) as bar:
            found = predictor.predict(rows.texts, bar.update)
        if given.text is not None and out is None:
            print(found[0])
            return
        lines = [
            _json(
                {**({"line": rows.lines[row], **rows.carried[row]} if rows.lines else {}), **one.to_dict()},
                "utf-8" if out is not None else sys.stdout.encoding,
            )
            for row, one in enumerate(found)
        ]
        if out is None:
            print("\n".join(lines))
            return
        try:
            write_text(out, "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise UserError(f"--out {out} cannot be written ({error.strerror}): give another file") from None
        print(f"{len(lines)} predictions: {out}")
    except BadRows as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)
        parser.stop(str(error))
    except UserError as error:
        parser.stop(str(error))
    except CellFailed as error:
        print(f"error: {error.cause}", file=sys.stderr)
        sys.exit(1)


def export() -> None:
    """The entry of `export`. Exit codes: 0, 2 for bad input."""
    parser = OneLineParser(
        prog=program("lora2_bench export"),
        description="A finished cell as a folder that plain transformers and PEFT load without a network: adapter, "
        "base, tokenizer and model card; or one whole model.",
    )
    _add_cell(parser)
    parser.add_argument("--out", required=True, help="the folder to make")
    parser.add_argument("--merged", action="store_true", help="one model, the adapter merged into its maps")
    given = parser.read()
    try:
        plan, record = _opened(given, device="cpu")
        out = _folder_to_make(given.out, Store(plan.run_options.results))
        require_weights(Store(plan.run_options.results), record)
        from lora2_bench.using.folder import write_folder  # torch takes seconds

        library = write_folder(plan, record, out, given.merged)
    except UserError as error:
        parser.stop(str(error))
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    print(f"{_label(plan, record)} on {record.cell['task']}, for {library}: {out} ({size:,.1f} MB)")


def _folder_to_make(text: str, store: Store) -> Path:
    """The folder that export makes. Raises UserError where none can be."""
    if not text:
        raise UserError("--out is empty: give a folder")
    out = user_path(text, "--out")
    if store.cells.resolve() in out.resolve().parents:
        raise UserError(f"--out {shortened(text)} is below {store.cells}, where cells are: give a folder elsewhere")
    return out


def _add_cell(parser: OneLineParser) -> None:
    parser.add_argument(
        "cell", metavar="CELL", help="a finished cell's id, or its folder (results/cells/ID); ID@4 is DyLoRA at rank 4"
    )
    parser.add_argument("--results", type=folder, default=Path("results"), help="where cells/ is")
    parser.add_argument("--base", help="the backbone's folder, of a cell of model=local")
    parser.add_argument("--method", help="MODULE.CLASS that trained the cell, of a method of your own")


def _opened(given: argparse.Namespace, **options: object) -> tuple[Plan, Record]:
    results, cell_id = find_cell(given.cell, given.results)
    return open_cell(results, cell_id, base=given.base, implementation=given.method, **options)  # type: ignore[arg-type]


def _json(values: Mapping[str, object], encoding: str) -> str:
    """One line of JSON, with escapes where the encoding lacks one of its signs."""
    line = json.dumps(values, ensure_ascii=False)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:  # half a surrogate pair, or a terminal that knows ASCII alone
        return json.dumps(values)
    return line


def _label(plan: Plan, record: Record) -> str:
    return record.label_at(plan.run_options.export.rank)


def _output(given: argparse.Namespace) -> Path | None:
    """The file to write. Raises UserError for one that cannot be there."""
    if given.out is None:
        return None
    out = file_to_write(given.out, "--out")
    read = None if given.file in (None, _STDIN) else user_path(given.file, "--file")
    if read is not None and out.exists() and read.exists() and out.samefile(read):
        raise UserError(f"--out {shortened(given.out)} is the file that is read: give another")
    return out


def _rows(given: argparse.Namespace, spec: TaskSpec) -> TextRows:
    """The rows that are asked for. Raises UserError."""
    if given.text is not None:
        if given.file is not None:
            raise UserError("--text and --file are both given: leave one of them out")
        if given.format is not None:
            raise UserError("--format is for --file or standard input: leave it out")
        pairs = None if given.text_pair is None else [given.text_pair]
        return given_rows(spec, [given.text], pairs, ("--text", "--text-pair"))
    if given.text_pair is not None:
        raise UserError("--text-pair has no --text beside it: give both")
    if given.file in (None, _STDIN):
        if sys.stdin is not None and sys.stdin.isatty():
            print("one row a line, Ctrl-D at the end:", file=sys.stderr)
        content = b"" if sys.stdin is None else sys.stdin.buffer.read()
        return read_rows(content, given.format or "lines", spec, "standard input")
    if not given.file:
        raise UserError("--file is empty: give a file, or - for standard input")
    path = user_path(given.file, "--file")
    form = given.format or path.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise UserError(f"--file {shortened(given.file)} ends in no known form: give --format {', '.join(FORMATS)}")
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            raise UserError(f"--file {shortened(given.file)} is no file: give one, or - for standard input")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--file {shortened(given.file)} cannot be read ({error.strerror}): give another") from None
    return read_rows(content, form, spec, path.name)
