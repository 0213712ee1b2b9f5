"""What a suite costs, by the script that tells it."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lora2_bench.config.compose import plan_of
from lora2_bench.experiment.suites import suites

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "study_cost.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_cost", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["study_cost.py", "--suite", "smoke", "--model", "minilm", *words])
    script.main()
    return capsys.readouterr().out.splitlines()


def test_steps_and_hours_are_those_of_the_suites_cells(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = suites()["smoke"]
    lines = told(script, monkeypatch, capsys, "--seconds-per-step", "3600", "--gpus", "1", "10000")
    (row,) = [line for line in lines if line.startswith("| all |")]
    counted, steps, hours, longest = (cell.strip().replace(",", "") for cell in row.strip("|").split("|")[1:])
    planned, most = 0, 0.0
    for name in suite.rows:
        for task in suite.tasks:
            cell = plan_of([f"row={name}", f"task={task}", "model=minilm", "data=hub"]).cell
            own, scoring = script.steps_of(cell)
            assert own == cell.train.total_steps(cell.spec.rows["train"]) > 200
            assert scoring == pytest.approx(cell.train.epochs * math.ceil(script.DEV_ROWS[task] / 64) / 3)
            cut, once = script.steps_of(dataclasses.replace(cell, train=dataclasses.replace(cell.train, max_steps=40)))
            assert cut == 40 and once == pytest.approx(scoring / cell.train.epochs)
            planned, most = planned + cut, max(most, cut + once)
    assert (int(counted), int(steps)) == (suite.cells, planned * len(suite.seeds))
    assert int(hours) > planned * len(suite.seeds) and float(longest) == pytest.approx(most, abs=0.1)
    days = [float(line.split(": ")[1].split()[0]) for line in lines if "GPU" in line and "days" in line]
    assert days == pytest.approx([int(hours) / 24, most / 24], abs=0.1)  # more GPUs than cells end with the longest
    assert lines[-1].endswith("as measured")


def test_what_was_not_measured_is_called_an_estimate_or_the_papers(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(script, monkeypatch, capsys)[-1].endswith("estimated for an A100")
    assert told(script, monkeypatch, capsys, "--printed")[-1].endswith("as the paper prints them (LoRA², Table 2)")
    assert script.printed("cola") == 1.14 and 1.14 < script.printed("qnli") < 1.7
    arithmetic, launches = 6 * 302e6 * 128 * 64 / (312e12 / 4), 6 * 250 * 1e-5
    assert script.estimated("roberta_large", 128, full=True) == pytest.approx(arithmetic)
    assert script.estimated("minilm", 32, full=False) == pytest.approx(launches)
    with pytest.raises(SystemExit):
        told(script, monkeypatch, capsys, "--seconds-per-step", "0")
    assert "--seconds-per-step 0.0 is not possible" in capsys.readouterr().err
