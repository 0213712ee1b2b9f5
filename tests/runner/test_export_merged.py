"""The merged model of a finished cell, read back by transformers alone; QA-LoRA's in its integers, as documented."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Told
from tests.methods.helpers import fits_tiny
from tests.runner.test_run import QUICK, records_of, tiny

Bench = Callable[..., Told]
Folders = Callable[[str], Path]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "METHODS.md"


def dev_logits(model: torch.nn.Module, folder: Path) -> torch.Tensor:
    """Logits of the cell's dev rows, with the tokenizer of a folder."""
    from transformers import AutoTokenizer

    from lora2_bench.runner.rows import sample
    from lora2_bench.tasks.sources import load_task

    dev, tokenizer = sample(load_task("rte", "mini").splits["dev"], 20), AutoTokenizer.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for pair in zip(*dev.texts.values(), strict=True):
            row = tokenizer(*pair, truncation=True, return_tensors="pt")
            rows.append(model.eval()(**row).logits[0])
    return torch.stack(rows)


def loader() -> Callable[[str], torch.nn.Module]:
    """The function that docs/METHODS.md gives for QA-LoRA's merged folder."""
    (text,) = re.findall(r"^```python\n(.*?def merged.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Callable[[str], torch.nn.Module]] = {}
    exec(text, names)
    return names["merged"]


@pytest.mark.parametrize(
    ("method", "architecture"),
    [("lora2", "bert"), ("bitfit", "roberta"), ("vera", "deberta-v2"), ("dora", "bert"), ("longlora", "roberta")],
)
def test_the_merged_model_gives_the_cells_logits(
    method: str, architecture: str, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    command = (*tiny(tiny_folders(architecture)), *QUICK, *fits_tiny(method), f"method={method}", "train.lr=2e-2")
    told = bench(*command, f"results={tmp_path}", "export.merged=true")
    assert told.code == 0, told.err
    (record,) = records_of(tmp_path)
    cell = tmp_path / "cells" / record["id"]
    assert f"merged model: {cell / 'merged'}" in told.out
    model, info = AutoModelForSequenceClassification.from_pretrained(cell / "merged", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    stored = torch.tensor(json.loads((cell / "predictions.json").read_text())["dev"]["best"])
    torch.testing.assert_close(dev_logits(model, cell / "merged"), stored, rtol=0, atol=1e-5)
    assert str(tmp_path) not in (cell / "merged" / "config.json").read_text()


def test_qaloras_merged_model_keeps_the_integers_and_gives_the_cells_logits(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora2_bench.backbones.load import load_backbone
    from lora2_bench.experiment.cell import Model
    from lora2_bench.methods.qalora import Int4Linear

    base = tiny_folders("bert")
    command = (*tiny(base), *QUICK, *fits_tiny("qalora"), "method=qalora", "train.lr=5e-2", f"results={tmp_path}")
    assert bench(*command).code == 0
    monkeypatch.setattr("lora2_bench.runner.train_cell.run_cell", lambda *_: pytest.fail("it was trained again"))
    told = bench(*command, "export.merged=true")  # a finished cell gives it too
    assert told.code == 0, told.err
    (record,) = records_of(tmp_path)
    cell = tmp_path / "cells" / record["id"]
    assert not (cell / "merged" / "model.safetensors").exists()
    kept = load_file(cell / "merged" / "quantised.safetensors")
    backbone = load_backbone(Model("local", "local", None, None, None), 2, path=str(base)).model
    names = [name.removesuffix(".codes") for name in kept if name.endswith(".codes")]
    assert len(names) == 12
    for name in names:
        untrained = Int4Linear(backbone.get_submodule(name), 8)
        assert torch.equal(kept[f"{name}.codes"], untrained.codes)
        assert torch.equal(kept[f"{name}.scales"], untrained.scales)
        assert not torch.equal(kept[f"{name}.zeros"], untrained.zeros)
    stored = torch.tensor(json.loads((cell / "predictions.json").read_text())["dev"]["best"])
    model = loader()(str(cell / "merged"))
    torch.testing.assert_close(dev_logits(model, cell / "merged"), stored, rtol=0, atol=1e-5)


def test_dylora_is_merged_at_a_rank(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    command = (*tiny(tiny_folders("bert")), *QUICK, "method=dylora", "kr=2", "train.lr=5e-2", f"results={tmp_path}")
    told = bench(*command, "export.merged=true", "export.rank=1")
    assert told.code == 0, told.err
    (cell,) = (tmp_path / "cells").iterdir()
    assert {path.name for path in cell.iterdir() if path.is_dir()} == {"adapter", "adapter_r1", "merged_r1"}
    from peft import PeftModel

    folder = cell / "merged_r1"
    base = AutoModelForSequenceClassification.from_pretrained(tiny_folders("bert"), num_labels=2)
    adapted = PeftModel.from_pretrained(base, str(cell / "adapter_r1"))
    merged = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(dev_logits(merged, folder), dev_logits(adapted, folder), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("prefix", "PrefixTuning cannot be merged into the backbone's maps: keep it beside them"),
        ("full", "export.merged=true does not fit full, which keeps no weights: give keep=weights too"),
        (
            "qlora",
            "QLoRA cannot be merged into four-bit weights without rounding the adapter away: load it with PEFT on the "
            "quantised backbone, or train method=qalora, which can",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_before_training(
    method: str, line: str, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    told = bench(*tiny(tiny_folders("bert")), *QUICK, f"method={method}", f"results={tmp_path}", "export.merged=true")
    assert told.code == 2 and told.err.strip() == f"error: {line}"
    assert records_of(tmp_path) == []
