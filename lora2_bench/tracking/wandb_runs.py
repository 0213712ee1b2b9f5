"""A cell's run on Weights & Biases: start, log, finish."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora2_bench.records.record import Record
from lora2_bench.records.scrub import scrub, scrubbed

START_SECONDS = 8.0
"""Seconds that W&B has to answer at a run's start; the run then goes on without it, within 10 s."""


def default_group(task: str, label: str, command: Iterable[str]) -> str:
    """What a run is grouped by: the suite that its command names, else its task, and its method."""
    suite = next((word.removeprefix("suite=") for word in command if word.startswith("suite=")), task)
    return f"{suite} {label}"


def start_run(
    results: Path,
    cell_id: str,
    cell: Mapping[str, Any],
    label: str,
    project: str,
    *,
    group: str,
    tags: list[str] | tuple[str, ...] = (),
) -> Any:
    """A W&B run for a cell (as `Cell.to_dict`). Its id is the cell's: however often it is sent, there is one run.

    Nothing of the machine goes along: no host or user name, no command, no path, no list of packages. Raises what W&B
    does, within 10 s where it does not answer.
    """
    import wandb

    _own_cache(results)
    online = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    facts = [cell["task"], cell["method"]["name"], cell["model"]["name"], cell["data"]["source"]]
    with _scrubbed_logging():  # W&B's debug.log begins with the results folder
        return wandb.init(
            project=project,
            dir=str(results),  # wandb adds its own name
            mode=os.environ.get("WANDB_MODE") or online,  # type: ignore[arg-type]
            id=cell_id,
            resume="allow",
            name=f"{cell['task']} {label} seed {cell['seed']}",
            group=scrub(group),
            tags=list(dict.fromkeys([*facts, cell["protocol"]["name"], *map(scrub, tags)])),
            config=scrubbed({"id": cell_id, "label": label, **cell}),
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=START_SECONDS,
                login_timeout=START_SECONDS,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                host="unnamed",
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )


@contextmanager
def _scrubbed_logging() -> Iterator[None]:
    """Scrub the log records that are made within the block."""
    make = logging.getLogRecordFactory()

    def scrubbed_record(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        record.msg, record.args = scrub(record.getMessage()), ()
        return record

    logging.setLogRecordFactory(scrubbed_record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


def _own_cache(results: Path) -> None:
    """Give W&B a cache folder below `results` where the account's own cannot be made, else it logs to the terminal."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (keeps `~` without a home)
    try:
        Path(cache, "wandb").mkdir(parents=True, exist_ok=True)
    except OSError:
        os.environ.setdefault("WANDB_CACHE_DIR", str((results / "wandb" / "cache").absolute()))


def log_evaluation(run: Any, evaluation: Mapping[str, Any]) -> None:
    """Log one evaluation, as a record keeps it, at its step."""
    flat = {f"{split}/{name}": value for split, group in evaluation["metrics"].items() for name, value in group.items()}
    single = {name: value for name, value in evaluation.items() if name != "metrics"}
    run.log({**single, **flat}, step=evaluation["step"])


def finish_run(run: Any, record: Record) -> None:
    """Give a run its record's numbers, and close it."""
    kept = {name: value for name, value in record.result.items() if name != "evaluations"}
    facts = {name: value for name, value in record.run.items() if name not in ("command", "config", "code")}
    summary = scrubbed({"status": record.status, "cut": record.cut, **kept, "run": facts})
    commit = record.run.get("code", {}).get("sha")  # 40 digits, which would pass for a token
    run.summary.update({**summary, "commit": commit})
    run.finish(exit_code=0 if record.is_done else 1)
