"""`python -m lora2_bench.submission --model NAME --method NAME`: the zip for GLUE's server, from stored runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from lora2_bench.errors import UserError
from lora2_bench.files.arguments import program
from lora2_bench.records.scrub import hide_secrets
from lora2_bench.report.records import load_records
from lora2_bench.report.submission.choice import Wanted
from lora2_bench.report.submission.write import write_submission


def main() -> None:
    """The command-line entry point; exit code 2 where no zip is written."""
    parser = argparse.ArgumentParser(
        prog=program("lora2_bench.submission"),
        description="Write the zip that gluebenchmark.com takes, from stored test predictions. Nothing is trained.",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="where cells/ is")
    parser.add_argument("--model", help="the backbone, as in model=NAME")
    parser.add_argument("--method", help="the method, as in method=NAME")
    parser.add_argument("--kr", type=int, help="runs of this K/R setting alone (default: of any)")
    parser.add_argument("--seed", type=int, help="runs of this seed alone (default: the best on dev)")
    parser.add_argument(
        "--protocol", choices=["paper", "clean"], help="runs under it alone (needed where there are both)"
    )
    parser.add_argument("--wnli-majority", action="store_true", help="answer WNLI with its majority class, not a run")
    parser.add_argument("--partial", action="store_true", help="leave missing files out (the server wants all eleven)")
    given = parser.parse_args()
    if not given.results.is_dir():
        _stop(f"--results {given.results} is no folder: run a cell, or name its results")
    if not given.model or not given.method:
        _stop(f"--model and --method are needed, as in MODEL=... METHOD=... of make: {_there(given.results)}")
    wanted = Wanted(given.model, given.method, given.kr, given.seed, given.protocol)
    try:
        path, made = write_submission(given.results, wanted, wnli_majority=given.wnli_majority, partial=given.partial)
    except UserError as error:
        _stop(str(error))
    print("\n".join(made.lines))
    for problem in made.problems:
        print(f"warning: left out: {hide_secrets(problem)}", file=sys.stderr)
    print(f"written: {path}")


def _there(results: Path) -> str:
    """Which backbones and methods have runs that could answer."""
    found = {
        f"--model {record.cell['model']['name']} --method {record.cell['method']['name']}"
        for record in load_records(results)
        if record.is_done and record.cell["data"]["source"] != "mini" and not record.is_trial
    }
    return f"{results} has runs of {', '.join(sorted(found))}" if found else f"{results} has no run on GLUE's rows"


def _stop(message: str) -> NoReturn:
    print(f"error: {hide_secrets(message)}", file=sys.stderr)
    sys.exit(2)
