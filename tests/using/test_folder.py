"""Exported folders of every method, read by transformers and PEFT in a process that never imports the package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lora2_bench.__main__ import main
from lora2_bench.records.predictions import read_predictions
from lora2_bench.runner.opened import open_cell
from lora2_bench.runner.rows import sample
from lora2_bench.tasks.sources import load_task
from lora2_bench.tasks.spec import TASKS
from lora2_bench.using.folder import write_folder
from lora2_bench.using.predictor import Predictor
from tests.conftest import Told
from tests.methods.helpers import METHODS, method_class
from tests.using.conftest import ROWS, Cells
from tests.using.plain import read_plainly

pytestmark = pytest.mark.slow  # many processes, or every method trained

Call = Callable[..., Told]
CellsOf = Callable[[str], Cells]
PREFIXES = ("prefix", "ptuning_v2")  # prompts of PEFT's, over a base with shifted positions
PROMPTS = ("prompt", "p_tuning")  # neither library computes them as they were trained
EXPORTED = [("bert", name) for name in METHODS if name not in PROMPTS]
EXPORTED += [("roberta", "lora2"), ("deberta-v2", "bitfit"), ("modernbert", "lora"), ("roberta", "prefix")]


def forms(name: str) -> tuple[bool, ...]:
    """Whether a folder is merged: no, and yes where the method can be."""
    return (False, True) if method_class(name).merges else (False,)


def dev_rows(task: str = "rte") -> list[list[str]]:
    """The dev rows that a cell was scored on, a list of texts each."""
    dev = sample(load_task(task, "mini").splits["dev"], ROWS)
    return [list(row) for row in zip(*dev.texts.values(), strict=True)]


def stored(cells: Cells, cell_id: str) -> torch.Tensor:
    """The cell's own dev logits at its best step."""
    return torch.from_numpy(read_predictions(cells.store.folder(cell_id) / "predictions.json")["dev"].logits["best"])


@pytest.fixture(scope="module")
def told(cells: CellsOf, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, bool], Any]:
    """(architecture, method, merged) -> what another process says of the folder; all in one process."""
    place = tmp_path_factory.mktemp("exported")
    folders = {}
    for architecture, name in EXPORTED:
        of = cells(architecture)
        plan, record = open_cell(of.results, of.id_of(name), base=str(of.base), device="cpu", threads=1)
        for merged in forms(name):
            folders[architecture, name, merged] = folder = place / f"{architecture}-{name}-{merged}"
            write_folder(plan, record, folder, merged)
    found = read_plainly(dev_rows(), list(folders.values()), place)
    return {key: found[str(folder)] for key, folder in folders.items()}


@pytest.mark.parametrize(("architecture", "name"), EXPORTED)
def test_a_folder_gives_the_cells_logits_without_the_package(
    architecture: str, name: str, told: dict[tuple[str, str, bool], Any], cells: CellsOf
) -> None:
    of = cells(architecture)
    wanted = stored(of, of.id_of(name))
    assert wanted.std(dim=0).min() > 1e-2  # rows differ
    for merged in forms(name):
        one = told[architecture, name, merged]
        torch.testing.assert_close(torch.tensor(one["logits"]), wanted, rtol=0, atol=2e-5)
        assert one["id2label"] == {"0": "entailment", "1": "not_entailment"} and one["num_labels"] == 2
        assert one["problem_type"] == "single_label_classification"
    is_adapter = method_class(name).exports in ("lora", "peft") or name in PREFIXES
    without = told[architecture, name, False]["without"]
    assert (without is not None) == is_adapter
    if is_adapter:  # which is what is read
        assert (torch.tensor(without) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_dev_rows_are_predicted_as_they_were(name: str, cells: CellsOf) -> None:
    of = cells("bert")
    plan, record = open_cell(of.results, of.id_of(name), base=str(of.base), device="cpu", threads=1)
    found = Predictor(plan, record).logits(list(zip(*dev_rows(), strict=True)))
    torch.testing.assert_close(found, stored(of, record.id), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PROMPTS)
def test_what_neither_library_computes_is_refused(name: str, cells: CellsOf, call: Call, tmp_path: Path) -> None:
    of = cells("bert")
    cell = of.id_of(name)
    out = call(main, "export", cell, "--results", str(of.results), "--base", str(of.base), "--out", str(tmp_path / "x"))
    assert out.code == 2 and out.err.startswith(f"error: {name} length=8 adds to the model what neither transformers")
    assert f"use lora2-bench predict {cell}" in out.err and not list(tmp_path.iterdir())


def test_the_card_and_the_score_of_a_regression(cells: CellsOf, call: Call, tmp_path: Path) -> None:
    of = cells("bert")
    cell, out = of.id_of("lora", "stsb"), tmp_path / "stsb"
    told = call(main, "export", str(of.store.folder(cell)), "--base", str(of.base), "--out", str(out))
    assert told.code == 0, told.err
    assert re.fullmatch(rf"lora r=1 on stsb, for peft: {out} \([\d.]+ MB\)\n", told.out)
    config = json.loads((out / "base" / "config.json").read_text())
    assert config["problem_type"] == "regression" and config["id2label"] == {"0": "score"}
    adapter = json.loads((out / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(out / "base")
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["base_model"], head["library_name"], head["license"]) == ("local", "peft", "unknown")
    assert head["pipeline_tag"] == "text-classification" and "stsb" in head["tags"]
    for part in ("generated by the package", "95 % interval", f"cell {cell}, seed 0", "on sentence1 and sentence2"):
        assert part in card
    assert of.store.read(cell) is not None  # nothing was written into the cell
    again = call(main, "export", cell, "--results", str(of.results), "--base", str(of.base), "--out", str(out))
    assert again.code == 2 and again.err == f"error: --out {out} is there already: give a new folder, or an empty one\n"
    (tmp_path / "file").write_text("")
    for place, line in (
        ("", "--out is empty: give a folder"),
        (str(of.store.folder(cell) / "x"), f"is below {of.store.cells}, where cells are: give a folder elsewhere"),
        (str(tmp_path / "file" / "x"), f"lies below {tmp_path / 'file'}, which is a file: give another folder"),
    ):
        told = call(main, "export", cell, "--results", str(of.results), "--base", str(of.base), "--out", place)
        assert told.code == 2 and told.err.endswith(f"{line}\n") and told.err.count("\n") == 1, told.err


def test_damaged_weights_and_a_method_that_cannot_be_merged_are_one_line(
    cells: CellsOf, call: Call, tmp_path: Path
) -> None:
    of = cells("bert")
    common = ("--results", str(of.results), "--base", str(of.base), "--out", str(tmp_path / "x"))
    for name, line in (("qlora", "QLoRA cannot be merged into four-bit"), ("prefix", "PrefixTuning cannot be merged")):
        told = call(main, "export", of.id_of(name), *common, "--merged")
        assert told.code == 2 and told.err.splitlines()[-1].startswith(f"error: {line}")
    path = of.store.weights(of.id_of("ia3"))
    before = path.read_bytes()
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path, {"sha256": "0" * 64})
    told = call(main, "export", path.parent.name, *common)
    path.write_bytes(before)
    assert told.code == 2 and "its content is not what was written" in told.err and told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_rank_of_one_training_is_predicted_exported_and_merged(cells: CellsOf, call: Call, tmp_path: Path) -> None:
    of = cells("bert")
    cell, columns = of.id_of("dylora"), list(zip(*dev_rows(), strict=True))
    common = ("--results", str(of.results), "--base", str(of.base))
    plan, record = open_cell(of.results, f"{cell}@1", base=str(of.base), device="cpu", threads=1)
    logits = Predictor(plan, record).logits(columns)
    assert (logits - stored(of, cell)).abs().max() > 1e-3
    labels = torch.tensor(sample(load_task("rte", "mini").splits["dev"], ROWS).labels)
    score = record.result["by_rank"]["1"]["score"]
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(score)
    for name, words in (("adapter", ()), ("merged", ("--merged",))):
        named, out = f"{of.store.folder(cell)}@1", tmp_path / name
        told = call(main, "export", named, "--base", str(of.base), "--out", str(out), *words)
        assert told.code == 0 and told.out.startswith("dylora r=1 on rte, for "), told.err
        card = (out / "README.md").read_text()
        assert "# dylora r=1 on rte" in card and f"accuracy {score:.4f} at rank 1 of the " in card
    found = read_plainly(dev_rows(), [tmp_path / "adapter", tmp_path / "merged"], tmp_path)
    for one in found.values():
        torch.testing.assert_close(torch.tensor(one["logits"]), logits, rtol=0, atol=2e-5)
    first = ("--text", dev_rows()[0][0], "--text-pair", dev_rows()[0][1])
    told = call(main, "predict", f"{cell}@1", *common, *first)
    assert told.code == 0 and told.out.startswith(TASKS["rte"].labels[int(logits[0].argmax())])
    lora, most = of.id_of("lora"), len(record.result["by_rank"])
    for named, line in (
        (f"{cell}@9", f"rank=9 of cell {cell} (dylora r={most}) is not served: give a rank from 1 to {most}"),
        (f"{cell}@", f"rank= of cell {cell}"),
        (f"{lora}@1", f"rank=1 of cell {lora} (lora r=1) is not served: give no rank: it serves none but its own"),
    ):
        told = call(main, "predict", named, *common, *first)
        assert told.code == 2 and told.err.startswith(f"error: {line}") and told.err.count("\n") == 1
