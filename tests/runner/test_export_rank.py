"""One training, every rank: a cell's scores at each of them, and its adapter at any of them, read back by PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Told
from tests.runner.test_run import QUICK, records_of, tiny

Bench = Callable[..., Told]
Folders = Callable[[str], Path]


def accuracy_with_peft(base: Path, adapter: Path) -> float:
    """The adapter's accuracy on the cell's dev rows, with transformers and PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from lora2_bench.runner.rows import sample
    from lora2_bench.tasks.sources import load_task

    dev = sample(load_task("rte", "mini").splits["dev"], 20)
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(9)  # another head, replaced by the adapter's
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    right = 0
    for pair, label in zip(zip(*dev.texts.values(), strict=True), dev.labels, strict=True):
        row = tokenizer(*pair, truncation=True, max_length=48, return_tensors="pt")
        with torch.no_grad():
            right += int(model(**row).logits.argmax()) == label
    return right / 20


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "clean"])
def test_every_rank_is_scored_and_exported(
    protocol: str, bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_folders("bert" if protocol == "paper" else "roberta")
    command = (*tiny(base), *QUICK, "method=dylora", "kr=3", f"protocol={protocol}", f"results={tmp_path}")
    first = bench(*command, "train.lr=5e-2", "export.rank=1")
    assert first.code == 0, first.err
    (record,) = records_of(tmp_path)
    result: dict[str, Any] = record["result"]
    assert list(result["by_rank"]) == ["1", "2", "3"]
    assert {one["step"] for one in result["by_rank"].values()} == {result["best"]["step"]}
    assert result["by_rank"]["3"] == result["best"]
    assert [one["active"] for one in result["by_rank"].values()] == [640 * rank for rank in (1, 2, 3)]
    cell = tmp_path / "cells" / record["id"]
    assert {path.name for path in cell.glob("adapter*")} == {"adapter", "adapter_r1"}
    assert f"adapter at rank 1: {cell / 'adapter_r1'}" in first.out

    # A finished cell is not trained again, and gives its other ranks too.
    monkeypatch.setattr("lora2_bench.runner.train_cell.run_cell", lambda *_: pytest.fail("it was trained again"))
    before = (cell / "record.json").read_bytes()
    for rank in (2, 3, 2):
        told = bench(*command, "train.lr=5e-2", f"export.rank={rank}")
        assert told.code == 0 and told.last == first.last
    assert (cell / "record.json").read_bytes() == before
    assert {path.name for path in cell.iterdir() if path.is_dir()} == {"adapter", *(f"adapter_r{b}" for b in (1, 2, 3))}
    for rank in (1, 2, 3):
        folder = cell / f"adapter_r{rank}"
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", rank, rank)
        assert accuracy_with_peft(base, folder) == pytest.approx(result["by_rank"][str(rank)]["score"])
    whole, largest = (cell / name / "adapter_model.safetensors" for name in ("adapter", "adapter_r3"))
    assert whole.read_bytes() == largest.read_bytes()
    assert list((tmp_path / "cells").iterdir()) == [cell]


def test_a_rank_that_no_training_serves_is_refused_before_it(
    bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    command = (*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}")
    for method, size, message in (
        ("lora", 4, "export.rank=2 does not fit lora r=4, which serves no rank but its own: leave it out"),
        ("full", None, "export.rank=2 does not fit full, which serves no rank but its own: leave it out"),
        ("dylora", 1, "export.rank=2 does not fit dylora r=1: give one of 1"),
    ):
        told = bench(*command, f"method={method}", *([f"kr={size}"] if size else []), "export.rank=2")
        assert told.code == 2 and told.err.strip() == f"error: {message}"
    assert records_of(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_line(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    command = (*tiny(tiny_folders("bert")), *QUICK, "method=dylora", "kr=2", f"results={tmp_path}")
    assert bench(*command).code == 0
    (record,) = records_of(tmp_path)
    (tmp_path / "cells" / record["id"] / "adapter_r1").write_text("in the way")
    told = bench(*command, "export.rank=1")
    assert told.code == 2
    assert "adapter_r1 cannot be written (Not a directory)" in told.err and told.err.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda tensors: None, "cannot be read (its content is not what was written)"),
        (lambda tensors: tensors.pop("classifier.weight"), "has other parts than its cell trains"),
    ],
)
def test_weights_that_are_not_those_kept_are_not_exported(
    damage: Callable[[dict[str, torch.Tensor]], object],
    reason: str,
    bench: Bench,
    tiny_folders: Folders,
    tmp_path: Path,
) -> None:
    command = (*tiny(tiny_folders("bert")), *QUICK, "method=dylora", "kr=2", f"results={tmp_path}")
    assert bench(*command).code == 0
    (path,) = tmp_path.glob("cells/*/trained.safetensors")
    tensors = load_file(path)
    if damage(tensors) is None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        save_file(tensors, path)  # as an earlier version did, without a digest
    told = bench(*command, "export.rank=1")
    assert told.code == 2
    assert told.err.splitlines()[-1].startswith(f"error: export.rank=1: {path} {reason}")
    assert not list(tmp_path.glob("cells/*/adapter_r1"))
