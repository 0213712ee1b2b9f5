"""Commands that neither train nor build a model load no torch, which takes seconds.

import-linter checks this package's own imports (pyproject.toml) and does not see what other libraries import in turn.
So each command runs here as a user runs it, and the test looks at what is loaded at its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lora2_bench.records.store import TEST_PREDICTIONS, Store
from lora2_bench.records.test_predictions import Predicted, write_predicted
from tests.composed import plan_of
from tests.made_records import make_cell, make_record

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "accelerate", "peft", "datasets", "evaluate", "uvicorn")
RUN = """
import json, runpy, sys
_, loaded, *sys.argv = sys.argv
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    with open(loaded, "w") as stream:
        json.dump(sorted(sys.modules), stream)
"""
# Command -> a part of what it prints when it has done its work.
COMMANDS = {
    "lora2_bench.publish --results {results}": "lora2-bench: 3 records published, 0 were there already",
    "lora2_bench.submission --results {results} --model minilm --method lora2 --partial": "WNLI.tsv       146 rows | ",
    "lora2_bench.status suite=smoke seed=0 results={results}": "smoke: 4 cells: 1 done, 0 running",
    "lora2_bench.report tables --results {results}": "# minilm on mini data",
    "lora2_bench.report audit --results {results}": "written: {results}/audit/audit.csv",
    "lora2_bench.sweep suite=smoke seed=0 results={results} --dry-run": "3 to send",
    "lora2_bench.tune study=smoke stage=plan results={results}": "16 cells (8 trials, 8 runs)",
    "lora2_bench --help": "python -m lora2_bench",
    "lora2_bench serve --help": "--token-file",
    "lora2_bench row=lora_r1 task=rte train.max_steps=40 results={results}": "rte (mini) | minilm | lora r=1 | seed 0",
    "lora2_bench.runner.worker": "",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with three finished cells: one is a suite's, one of GLUE's own rows with test predictions."""
    evaluations = [
        {"step": step, "epoch": step / 63, "score": 0.5, "metrics": {"dev": {"accuracy": 0.5}}, "train_loss": 0.7}
        for step in (63, 126)
    ]
    store = Store(tmp_path_factory.mktemp("results"))
    for cell in (plan_of("row=lora_r1", "task=rte", "train.max_steps=40").cell, make_cell("mrpc")):
        store.write(make_record(cell, evaluations=evaluations))
    record = make_record(make_cell("wnli", source="local"), evaluations=evaluations)
    predicted = Predicted({"test": np.zeros((146, 2), np.float32)}, {"test": "ab" * 32})
    store.write(record, lambda folder: write_predicted(folder / TEST_PREDICTIONS, record.id, predicted))
    return store.results


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_does_not_train_loads_no_torch(command: str, results: Path, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded.json"
    arguments = command.format(results=results).split()
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(loaded), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
        input="",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert COMMANDS[command].format(results=results) in done.stdout
    modules = json.loads(loaded.read_text())
    assert "lora2_bench" in modules
    assert [name for name in HEAVY if name in modules] == []


UNUSED = (
    "peft",
    "bitsandbytes",
    "datasets",
    "evaluate",
    "sklearn",
    "scipy.optimize",
    "scipy.stats",
    "pandas",
    "pyarrow",
)


@pytest.mark.slow
def test_a_cell_of_generated_rows_imports_only_what_it_uses(tmp_path: Path) -> None:
    """Before its first step none of what scoring, other methods and other sources of rows need; after it, no more."""
    loaded, seen = tmp_path / "loaded.json", tmp_path / "seen.json"
    watch = (
        "import json, sys, lora2_bench.config.launch\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'lora2_bench.training.loop':\n"
        "            sys.meta_path.remove(self)\n"
        "            import lora2_bench.training.loop as loop\n"
        "            step = loop.TrainingStep.__call__\n"
        "            def first(own, batch, number):\n"
        f"                with open({str(seen)!r}, 'w') as stream:\n"
        "                    json.dump(sorted(sys.modules), stream)\n"
        "                return step(own, batch, number)\n"
        "            loop.TrainingStep.__call__ = first\n"
        "sys.meta_path.insert(0, Watch())\n"
    )
    words = ("method=lora", "task=rte", "train.max_steps=1", "data.max_eval=8", f"results={tmp_path}")
    command = [sys.executable, "-c", watch + RUN, str(loaded), "lora2_bench", *words]
    subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=240)
    before, after = json.loads(seen.read_text()), json.loads(loaded.read_text())
    assert "torch" in before
    assert [name for name in UNUSED if name in before] == []
    assert [name for name in ("datasets", "evaluate", "sklearn", "scipy.stats", "pandas") if name in after] == []
