"""`lora2-bench evaluate`: a store scored again, and cells on another task of their labels."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora2_bench.__main__ import main
from lora2_bench.records.store import Store
from lora2_bench.runner.rows import sample
from lora2_bench.tasks.sources import load_task
from tests.conftest import Told
from tests.serving.cells import Trained

Call = Callable[..., Told]


@pytest.fixture
def evaluate(call: Call, trained: Trained) -> Callable[..., Told]:
    def run(*words: str, results: Path = trained.results) -> Told:
        place = ("--results", str(results), "--base", str(trained.backbone), "--device", "cpu", "--threads", "1")
        return call(main, "evaluate", *words, *place)

    return run


def test_a_store_scored_again_has_its_records_scores(
    evaluate: Callable[..., Told], trained: Trained, tmp_path: Path
) -> None:
    for task, cells in (("rte", 3), ("cola", 2), ("stsb", 1), ("mnli", 1)):
        out = tmp_path / f"{task}.json"
        told = evaluate("--cells", "all", "--task", task, "--batch", "5", "--memory", "1", "--out", str(out))
        assert told.code == 0, told.err
        values = json.loads(out.read_text())
        assert len(values["cells"]) == cells and len(values["left_out"]) == 8 - cells
        for one in values["cells"]:
            record = Store(trained.results).read(one["cell"])
            assert record is not None
            best = record.result["best"]
            assert one["record"] == best["score"] == pytest.approx(one["score"], abs=1e-5)
            for split, metrics in best["metrics"].items():
                assert one["metrics"][split] == pytest.approx(metrics, abs=1e-5)
        rows = told.out.splitlines()
        assert rows[0].split()[:4] == ["cell", "task", "method", "seed"]
        assert all(len(row.split()) == 8 for row in rows[1 : 1 + cells]), told.out  # no difference is told


def test_a_difference_from_the_record_is_shown(evaluate: Callable[..., Told], trained: Trained, tmp_path: Path) -> None:
    results = shutil.copytree(trained.results, tmp_path / "results")
    store = Store(results)
    entry = trained.library().find("task=rte method=lora")
    record = store.read(entry.id)
    assert record is not None
    best: Any = {**record.result["best"], "score": record.result["best"]["score"] + 1e-3}
    changed = dataclasses.replace(record, result={**record.result, "best": best})
    store.write(changed, lambda folder: shutil.copytree(store.folder(entry.id), folder, dirs_exist_ok=True))
    told = evaluate("--cells", entry.id, "--task", "rte", results=results)
    assert told.code == 0
    assert told.out.splitlines()[1].split()[-1] == "-1.0e-03"


def test_a_cell_answers_another_task_of_its_labels_by_their_names(
    evaluate: Callable[..., Told], trained: Trained, tmp_path: Path
) -> None:
    entry = trained.library().find("task=rte method=lora")
    told = evaluate("--cells", entry.id, "--task", "wnli", "--out", str(tmp_path / "o.json"))
    assert told.code == 0, told.err
    (one,) = json.loads((tmp_path / "o.json").read_text())["cells"]
    assert one["record"] is None and told.out.splitlines()[1].split()[-1] == "-"
    dev = sample(load_task("wnli", "mini").splits["dev"], 12)
    rows = zip(*dev.texts.values(), strict=True)
    # rte's classes are wnli's in the other order
    chosen = [1 - int(trained.alone(entry, *texts).argmax()) for texts in rows]
    assert one["score"] == pytest.approx(np.mean(np.array(chosen) == np.array(dev.labels)))


def test_cells_that_do_not_fit_are_a_line_each(evaluate: Callable[..., Told], trained: Trained) -> None:
    library = trained.library()
    rte, cola = library.find("task=rte method=lora"), library.find("task=cola method=dylora")
    told = evaluate("--cells", rte.id, cola.id, "--task", "rte")
    assert told.code == 1 and told.out.count("\n") == 2
    line = f"left out: cell {cola.id} (cola) answers unacceptable, acceptable, and task=rte asks for entailment, not_"
    assert line in told.err
    told = evaluate("--cells", cola.id, "--task", "sst2")
    assert (told.code, told.out) == (2, "") and "error: no cell is left to score on task=sst2" in told.err
    told = evaluate("--cells", cola.id, "--task", "cola", "--out", "/nowhere/x.json")
    assert (told.code, told.out) == (2, "") and told.err.startswith("error: --out ") and "lies in no folder" in told.err


def test_a_damaged_cell_is_a_line_and_the_others_are_scored(
    evaluate: Callable[..., Told], trained: Trained, tmp_path: Path
) -> None:
    results = shutil.copytree(trained.results, tmp_path / "results")
    hurt = trained.library().find("task=rte method=vera")
    (results / "cells" / hurt.id / "trained.safetensors").write_bytes(b"x" * 100)
    told = evaluate("--cells", "task=rte", "--task", "rte", results=results)
    assert told.code == 1 and told.out.count("\n") == 3 and "Traceback" not in told.err
    assert f"left out: cell {hurt.id}: {results}/cells/{hurt.id}/trained.safetensors cannot be read" in told.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--cells", "all"], "the following arguments are required: --task"),
        (["--cells", "all", "--task", "rtee"], "--task rtee is not known: did you mean rte?"),
        (["--cells", "0123456789abcdef", "--task", "rte"], "0123456789abcdef is no cell below"),
        (["--cells", "method=loar", "--task", "rte"], "method=loar fits none of the 8 cells"),
        (["--cells", "all", "--task", "rte", "--batch", "0"], "--batch 0 is not possible: give at least 1"),
        (["--cells", "all", "--task", "rte", "--model", "x"], "model=x has no cell that can be served: give local"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], line: str, evaluate: Callable[..., Told]) -> None:
    told = evaluate(*words)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith(f"error: {line}") and told.err.count("\n") == 1
