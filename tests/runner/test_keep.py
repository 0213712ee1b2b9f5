"""`keep=`: what a finished cell leaves of its method, and what can be done with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora2_bench.errors import UserError
from lora2_bench.records.store import Store, read_record
from lora2_bench.runner.opened import require_weights
from tests.conftest import Told
from tests.runner.test_export_merged import dev_logits
from tests.runner.test_run import QUICK, records_of, tiny

Bench = Callable[..., Told]
Folders = Callable[[str], Path]
SHORT = (*QUICK[1:], "task=rte", "train.max_steps=2")


def parts(cell: Path) -> set[str]:
    return {path.name for path in cell.iterdir()} - {"record.json", "predictions.json"}


def test_full_fine_tuning_keeps_its_whole_model(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    common = (*tiny(tiny_folders("roberta")), *SHORT, "method=full", "train.lr=1e-3", f"results={tmp_path}")
    first = bench(*common)
    (cell,) = (tmp_path / "cells").iterdir()
    assert first.code == 0 and parts(cell) == set() and "kept" not in first.out
    told = bench(*common, "keep=weights")  # another answer is no other cell
    line = (
        f"error: keep=weights: cell {cell.name} (full on rte) is finished, and kept none: train it anew with rerun=true"
    )
    assert told.code == 2 and told.err == f"{line} keep=weights\n"
    told = bench(*common, "keep=weights", "rerun=true")
    assert told.code == 0 and re.search(rf"^kept: {cell / 'model'} \(0\.\d\d MB\)$", told.out, re.MULTILINE), told.out
    assert parts(cell) == {"model"}
    (record,) = records_of(tmp_path)
    assert record["id"] == cell.name and "model/config.json" in record["files"]
    stored = torch.tensor(json.loads((cell / "predictions.json").read_text())["dev"]["best"])
    model, info = AutoModelForSequenceClassification.from_pretrained(cell / "model", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == {0: "entailment", 1: "not_entailment"}
    torch.testing.assert_close(dev_logits(model, cell / "model"), stored, rtol=0, atol=1e-5)

    # It is merged, is predicted with, and others start from it, as from any weights that are kept.
    told = bench(*common, "export.merged=true")
    assert told.code == 0 and parts(cell) == {"model", "merged"}
    still = ("seed=1", "train.max_steps=1", "train.lr=1e-12", "train.weight_decay=0", "keep=weights")
    told = bench(*common, *still, f"init_from='{cell.name}'")
    assert told.code == 0, told.err
    (other,) = (path for path in (tmp_path / "cells").iterdir() if path != cell)
    started = AutoModelForSequenceClassification.from_pretrained(other / "model")
    name = "roberta.encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(started.get_parameter(name), model.get_parameter(name), rtol=0, atol=1e-9)

    weights = cell / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    told = bench(*common, "seed=2", f"init_from='{cell.name}'")
    assert told.code == 2 and "its content is not what was written" in told.err and told.err.count("\n") == 1


def test_an_adapter_alone_and_nothing(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    common = (*tiny(tiny_folders("bert")), *SHORT, "method=lora", f"results={tmp_path}")
    for keep, left in (("adapter", {"adapter"}), ("weights", {"trained.safetensors"}), ("nothing", set())):
        told = bench(*common, f"keep={keep}", "rerun=true")
        (cell,) = (tmp_path / "cells").iterdir()
        assert told.code == 0 and parts(cell) == left, told.err
        names = ", ".join(f"{cell / name} (0.01 MB)" for name in left) or "nothing but the record and the predictions"
        assert f"kept: {names}\n" in told.out
        if keep == "adapter":
            with pytest.raises(UserError, match="kept its adapter alone, which PEFT reads: train it anew"):
                require_weights(Store(tmp_path), read_record(cell / "record.json"))
    told = bench(*common, "keep=nothing")
    assert told.code == 0 and "warning" not in told.err
    assert bench(*common, "keep=weights", "seed=2").code == 0
    told = bench(*common, "keep=nothing", "seed=2")
    assert told.code == 0 and "is finished, and what it kept stays: delete it, or train it anew" in told.err
    told = bench(*common, "seed=1", f"init_from='{cell.name}'")
    assert told.code == 2 and "kept no weights: train it anew with rerun=true keep=weights" in told.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("method=bitfit", "keep=adapter"),
            "keep=adapter does not fit bitfit, which PEFT cannot load: give keep=weights",
        ),
        (
            ("method=lora", "keep=nothing", "export.merged=true"),
            "export.merged=true is made of the weights, which keep=n",
        ),
        (
            ("method=dylora", "keep=adapter", "export.rank=1"),
            "export.rank=1 is made of the weights, which keep=adapter l",
        ),
        (("method=full", "keep=all"), "keep=all is not possible: keep must be one of weights, adapter, nothing"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_training(
    words: tuple[str, ...], line: str, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    told = bench(*tiny(tiny_folders("bert")), *SHORT, *words, f"results={tmp_path}")
    assert told.code == 2 and told.err.startswith(f"error: {line}") and told.err.count("\n") == 1
    assert records_of(tmp_path) == []
