"""`python -m lora2_bench.publish [--results DIR] [--project NAME]`: finished records to Weights & Biases, each once."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm.auto import tqdm

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import check_no_secret
from lora2_bench.files.arguments import OneLineParser, folder, program
from lora2_bench.records.record import Record
from lora2_bench.records.scrub import hide_secrets
from lora2_bench.records.store import Store, read_record, record_paths
from lora2_bench.tracking.published import is_published, mark_published
from lora2_bench.tracking.wandb_runs import default_group, finish_run, log_evaluation, start_run


def publish(results: Path, project: str, group: str | None = None) -> tuple[int, int]:
    """Mirror the finished records below `results/cells` that are not yet in `project`: (sent now, there before).

    Each is marked as it is sent, so that a run that was stopped goes on where it was. An unreadable record is named
    and left out. Raises UserError where nothing can be marked; whatever W&B raises ends it.
    """
    store = Store(results)
    found: list[Record] = []
    for path in record_paths(results):
        try:
            record = read_record(path)
        except (ValueError, OSError) as error:
            print(f"warning: {path} is left out: {error}", file=sys.stderr)
            continue
        if record.is_done:
            found.append(record)
    waiting = [record for record in found if not is_published(store, record.id, project)]
    if waiting:  # what is sent and cannot be marked would be sent again
        store.check_writable("free some space, or make it writable")
    for record in tqdm(waiting, desc="publish", unit="record", disable=not waiting):
        together = group or default_group(record.cell["task"], record.label, record.run.get("command", ()))
        run = start_run(results, record.id, record.cell, record.label, project, group=together)
        for evaluation in record.result["evaluations"]:
            log_evaluation(run, evaluation)
        finish_run(run, record)
        mark_published(store, record.id, project)
    return len(waiting), len(found) - len(waiting)


def main() -> None:
    """The command-line entry point."""
    parser = OneLineParser(
        prog=program("lora2_bench.publish"),
        description="Mirror finished records to Weights & Biases: online with WANDB_API_KEY, else offline.",
    )
    parser.add_argument("--results", type=folder, default=Path("results"), help="where cells/ is")
    parser.add_argument("--project", default="lora2-bench", help="the W&B project")
    parser.add_argument("--group", help="group of all these runs (default: suite or task of each, and its method)")
    arguments = parser.read()
    if not arguments.results.is_dir():
        print(f"error: --results {arguments.results} is no folder: run a cell, or name its results", file=sys.stderr)
        sys.exit(2)
    try:
        check_no_secret("--project", arguments.project)
        check_no_secret("--group", arguments.group)
        sent, before = publish(arguments.results, arguments.project, arguments.group)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # W&B's own, the network's or the disk's: what was sent is marked
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(
            f"error: publishing stopped ({hide_secrets(reason)}): the same command goes on with what is left",
            file=sys.stderr,
        )
        sys.exit(1)
    print(f"{arguments.project}: {sent} records published, {before} were there already")
