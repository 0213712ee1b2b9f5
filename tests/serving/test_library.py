"""The library: what can be served, what cannot and why, and how a cell is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from lora2_bench.errors import UserError
from lora2_bench.records.store import Store
from lora2_bench.serving.library import Library
from tests.made_records import make_cell, make_failed, make_record
from tests.serving.cells import Trained


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made records of MiniLM with a file in the place of the weights, and one of each kind that is not served."""
    store = Store(tmp_path_factory.mktemp("made"))

    def write(record: Any, *, weights: bool = True) -> str:
        store.write(record, lambda folder: (folder / "trained.safetensors").write_bytes(b"") if weights else None)
        return str(record.id)

    def lora(seed: int = 0, task: str = "rte", r: int = 8, **more: Any) -> Any:
        return make_record(make_cell(task, "lora", seed=seed, options={"r": r}, **more))

    for seed in (0, 1):
        write(lora(seed))
    write(lora(r=4))
    write(lora(task="cola"))
    write(make_record(make_cell("rte", "full")))
    write(make_failed(make_cell("rte", "lora", seed=7)))
    write(lora(seed=8), weights=False)
    write(lora(seed=9, protocol="tune"))
    own = lora(seed=10)
    config = {"method": {"_target_": "evil.module.LoRA"}}
    write(dataclasses.replace(own, run=cast(Any, {**own.run, "config": config})))
    damaged = write(lora(seed=11))
    record = json.loads(store.path(damaged).read_text())
    store.path(damaged).write_text(json.dumps({**record, "label": "lora r=9"}))
    write(lora(seed=12, model="roberta_base"))
    return store.results


def test_what_cannot_be_served_says_why(results: Path) -> None:
    library = Library(results, "minilm")
    assert len(library.entries) == 4
    reasons = sorted(library.refused.values())
    told = [
        "it is a trial of a study, which was scored on rows of train: serve the study's runs",
        "it keeps no trained.safetensors, which is what is served: train it again with rerun=true, its weights kept",
        "its backbone is another than the library's minilm",
        "its content is not what was written: it was edited or damaged since",
        "its training failed: run it again",
        "method=full leaves no low-rank product beside a frozen map, and is not served: lora, adalora, sora, lora2, "
        "dylora, vera are",
        "method=lora is evil.module.LoRA there, not the package's own: it is not served",
    ]
    assert reasons == told
    refused = next(name for name, why in library.refused.items() if why.startswith("method=full"))
    with pytest.raises(UserError, match=f"cell {refused} is not served: method=full leaves"):
        library.find(refused)


def test_an_entry_tells_of_its_cell(results: Path) -> None:
    entry = Library(results, "minilm").find("task=cola")
    assert (entry.model, entry.task, entry.method, entry.seed) == ("minilm", "cola", "lora r=8", 0)
    assert (entry.labels, entry.pair, entry.max_length) == (("unacceptable", "acceptable"), False, 128)
    assert entry.score == 0.8 and entry.folder == results / "cells" / entry.id and entry.rank is None
    assert hash(entry) == hash(Library(results, "minilm").find(entry.id))


@pytest.mark.parametrize("words", ["task=rte r=4", "r=4", "method=lora r=4 seed=0 model=minilm task=rte"])
def test_a_cell_is_found_by_words(words: str, results: Path) -> None:
    assert Library(results, "minilm").find(words).options["r"] == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("task=rte r=8", "task=rte r=8 fits 2 cells: "),
        ("task=qqp", "task=qqp fits none of the 4 cells served here: there are rte, cola by lora r=8, lora r=4"),
        ("task=rte lr=3", "lr=3 finds no cell: give a cell's id, or some of task=, method=, r= or k=, seed=, model="),
        ("task=rte task=cola", "task=cola finds no cell: give a cell's id"),
        ("task=rte cola", "cola finds no cell: give a cell's id"),
        ("0123456789abcdef", "0123456789abcdef is no cell below results="),
        ("", " is no cell below results="),
        ("task=cola rank=3", "rank=3 of cell "),
    ],
)
def test_words_that_find_none_or_several_are_one_line(words: str, line: str, results: Path) -> None:
    with pytest.raises(UserError) as error:
        Library(results, "minilm").find(words)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_the_backbone_must_be_one_and_known(results: Path, trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has cells of 2 backbones: give model=minilm or model=roberta_base"):
        Library(results)
    with pytest.raises(UserError, match="model=ettin has no cell that can be served: give minilm or roberta_base"):
        Library(results, "ettin")
    with pytest.raises(UserError, match="is no folder: run a cell"):
        Library(tmp_path / "none")
    with pytest.raises(UserError, match=r"model=local is a folder, which no record names: give it \(--base\)"):
        Library(trained.results)
    other = shutil.copytree(trained.backbone, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with pytest.raises(UserError, match=r"model.path=other is not the backbone of any cell"):
        Library(trained.results, model_path=str(other))
    with pytest.raises(UserError, match=r"^--base other is for model=local alone, not for minilm: leave it out$"):
        Library(results, "minilm", model_path=str(other))
    assert Library(tmp_path).entries == {} and "holds no record" in Library(tmp_path).nothing()
