"""The report's seconds, peak memory and page size on 5,000 made records: `python scripts/bench_report.py [RECORDS]`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path
from typing import Any, cast

from lora2_bench.experiment.suites import RowSpec, rows
from lora2_bench.records.digest import file_digests, with_digest
from lora2_bench.records.identity import id_of
from lora2_bench.records.record import DONE, Record
from lora2_bench.records.schema import CellSettings, Evaluation, MethodSettings, Result, RunFacts, TrainSettings
from lora2_bench.tasks.metrics import main_name
from lora2_bench.tasks.spec import TASKS, TaskSpec

PLACES = [(model, "hub") for model in ("deberta_v3_base", "roberta_base", "roberta_large", "minilm")]
PLACES += [(model, "local") for model in ("deberta_v3_base", "roberta_base", "roberta_large", "minilm")]
MEAN_CHARACTERS = 12  # of one number in a predictions file


def record(row: RowSpec, task: TaskSpec, model: str, data: str, seed: int, draw: random.Random) -> dict[str, Any]:
    """A record of the size that a real one has."""
    method: dict[str, Any] = {"name": row.method, "alpha": 16, "dropout": 0.0}
    for name, value in {**row.defaults, **row.settings}.items():
        *outer, last = name.split(".")
        part = method
        for key in outer:
            part = part.setdefault(key, {})
        part[last] = value
    train: TrainSettings = {
        "epochs": 10,
        "max_steps": None,
        "batch_size": 32,
        "accumulate": 1,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "schedule": "linear",
        "warmup": 0.06,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_eps": 1e-8,
        "max_length": 128,
        "cls_dropout": None,
        "eval_steps": None,
        "precision": "fp32",
    }
    cell: CellSettings = {
        "model": {"name": model, "source": "hub", "sha256": None, "hub_id": f"hub/{model}", "revision": "ab" * 20},
        "task": task.name,
        "method": cast(MethodSettings, method),
        "size": row.size_name,
        "data": {"source": data, "seed": None, "max_train": None, "max_eval": None},
        "train": train,
        "protocol": {"name": "paper", "held_out": 0.0, "split_seed": 0},
        "seed": seed,
        "init_from": None,
    }

    def at(step: int) -> Evaluation:
        metrics: Any = {split: {name: draw.uniform(0.5, 0.9) for name in task.metrics} for split in task.dev_splits}
        score = draw.uniform(0.5, 0.9)
        return {"step": step, "epoch": step / 100, "score": score, "metrics": metrics, "train_loss": 0.5}

    evaluations = [at(step) for step in range(100, 4100, 100)]
    facts: Result = {
        "main_metric": main_name(task),
        "size": {"name": row.size_name, "value": row.size, "quotient": None},
        "data": {
            "source": data,
            "official": True,
            "source_rows": task.rows,
            "rows": task.rows,
            "sha256": task.name,
            "notes": [],
        },
        "backbone": {"name": model, "sha256": model},
        "parameters": {"adapter": 167_616, "head": 592_130, "active": 160_000},
        "evaluations": evaluations,
        "best": evaluations[7],
        "last": evaluations[-1],
        "steps": 4000,
        "epochs": 40.0,
        "ranks": {str(layer): dict.fromkeys(("q", "k", "v", "o", "f1", "f2"), 4) for layer in range(24)},
    }
    config: Any = {**cell, "recipe": {"alpha": 16, "dropout": 0.0}, "extra": ["x" * 40] * 20}
    run: RunFacts = {
        "finished": "2025-01-01T00:00:00+00:00",
        "seconds": 400.0,
        "command": [f"row={row.name}", f"task={task.name}", f"seed={seed}"],
        "seconds_per_step": draw.uniform(0.1, 0.2),
        "hardware": {"processor": "made", "threads": 1, "gpu": None},
        "versions": {"lora2_bench": "0.1.0"} | {f"library{number}": "1.2.3" for number in range(10)},
        "config": config,
    }
    return Record(id_of(cell), DONE, cell, row.label, [], facts, run).to_dict()


def predictions(path: Path, task: TaskSpec, draw: random.Random) -> None:
    """Dev predictions as a run leaves them; where there would be 5,000 rows and more, a file of their size only."""
    count = sum(task.rows[split] for split in task.dev_splits)
    if count > 5000:
        path.touch()
        os.truncate(path, 2 * count * task.num_labels * MEAN_CHARACTERS)
        return
    logits = [[round(draw.gauss(0, 1), 8) for _ in range(task.num_labels)] for _ in range(count)]
    labels = [row % max(task.num_labels, 2) for row in range(count)]
    path.write_text(json.dumps({task.dev_splits[0]: {"labels": labels, "best": logits, "last": logits}}))


def make(results: Path, count: int) -> None:
    """`count` records below `results`, over eight folders of tables."""
    draw = random.Random(0)
    tasks = [task for task in TASKS.values() if task.name != "wnli"]
    cells = product(PLACES, range(5), rows().values(), tasks)
    for (model, data), seed, row, task in islice(cells, count):
        made = record(row, task, model, data, seed, draw)
        folder = results / "cells" / made["id"]
        folder.mkdir(parents=True)
        predictions(folder / "predictions.json", task, draw)
        whole = with_digest({**made, "files": file_digests(folder)})
        (folder / "record.json").write_text(json.dumps(whole, indent=1))


def measure(*command: str) -> tuple[float, float]:
    """Seconds and peak resident MB of one command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Make the records, run the commands, print one line each."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), count)
        made = len(list(Path(folder).glob("cells/*/record.json")))
        for what in ("tables", "audit", "report"):
            seconds, megabytes = measure("lora2_bench.report", what, "--results", folder)
            print(f"{what}: {made:,} records, {seconds:.1f} s, {megabytes:.0f} MB")
        page = Path(folder) / "report" / "index.html"
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
