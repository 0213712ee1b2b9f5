"""ModernBERT, whose q, k and v are one fused map: strict loading, training by each method, exports to plain PEFT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.backbones.fused import RowBlocks
from lora2_bench.backbones.load import load_backbone
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Model
from lora2_bench.experiment.maps import MAPS, in_letters
from lora2_bench.methods.base import Method
from lora2_bench.runner.export import export_adapter
from lora2_bench.runner.rows import sample
from lora2_bench.tasks.sources import load_task
from lora2_bench.training.state import load_trained_state, trained_state
from tests.conftest import Told, tiny_config
from tests.methods.helpers import make_backbone, make_batch, make_method, method_class, train_steps

Folders = Callable[[str], Path]
LOCAL = Model(name="local", source="local", sha256=None, hub_id=None, revision=None)
ADAPTERS = ("lora", "lora2", "adalora", "sora", "dylora", "vera", "qlora", "qalora")
FUSED = "model.layers.1.attn.Wqkv"
# Rounding of a matrix product that is taken in three.
CLOSE = {"rtol": 0.0, "atol": 1e-6}


def load(folder: Path) -> Backbone:
    torch.manual_seed(0)
    return load_backbone(LOCAL, 2, path=str(folder))


def inputs() -> dict[str, torch.Tensor]:
    return {name: value for name, value in make_batch(width=20).items() if name != "labels"}


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs()).logits
    return logits


def moved(name: str, **changes: Any) -> Method:
    """A method on a tiny ModernBERT after four steps."""
    method = make_method(name, make_backbone("modernbert"), **changes)
    train_steps(method, 4)
    return method


# --- the maps ---


@pytest.mark.parametrize("bias", [False, True])
def test_row_blocks_are_views_and_compute_what_the_fused_map_does(bias: bool) -> None:
    torch.manual_seed(0)
    fused, x = torch.nn.Linear(24, 72, bias=bias), torch.randn(5, 7, 24)
    blocks = RowBlocks(fused, ("q", "k", "v"))
    torch.testing.assert_close(blocks(x), fused(x), **CLOSE)
    for number, name in enumerate("qkv"):
        block = blocks.get_submodule(name)
        assert block.weight.data_ptr() == fused.weight[24 * number :].data_ptr() and block.weight.is_contiguous()
        assert (block.bias is None) is not bias


def test_six_maps_a_layer_are_found_and_a_fused_one_is_taken_apart_only_where_it_is_a_target() -> None:
    backbone = make_backbone("modernbert")
    before, whole = logits_of(backbone.model), dict(backbone.model.named_modules())
    assert set(backbone.linear_maps(["o", "f1", "f2"])) == {(layer, name) for layer in (0, 1) for name in MAPS[3:]}
    assert dict(backbone.model.named_modules()) == whole
    assert backbone.whole_maps(MAPS) == [
        name for name, m in whole.items() if ".layers." in name and hasattr(m, "weight") and m.weight.ndim == 2
    ]
    maps = backbone.linear_maps(["q", "f2"])
    assert maps == {
        (0, "q"): "model.layers.0.attn.Wqkv.q",
        (0, "f2"): "model.layers.0.mlp.Wo",
        (1, "q"): f"{FUSED}.q",
        (1, "f2"): "model.layers.1.mlp.Wo",
    }
    assert all(backbone.owns(parameter) for parameter in backbone.model.parameters())
    torch.testing.assert_close(logits_of(backbone.model), before, **CLOSE)


def test_its_own_names_are_targets() -> None:
    assert in_letters(["Wqkv"]) == ["q", "k", "v"] and in_letters(["attn.Wo", "Wi"]) == ["o", "f1"]
    assert in_letters(["Wo"]) == ["o", "f2"]


# --- the methods ---


@pytest.mark.parametrize("name", [name for name in ADAPTERS if method_class(name).starts_as_backbone])
def test_an_adapter_starts_as_the_backbone(name: str) -> None:
    backbone = make_backbone("modernbert")
    before = logits_of(backbone.model)
    make_method(name, backbone)
    torch.testing.assert_close(logits_of(backbone.model), before, **CLOSE)


@pytest.mark.parametrize("targets", [["q", "v"], list(MAPS)], ids="".join)
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_export_gives_the_same_logits_in_plain_peft(name: str, targets: list[str], tmp_path: Path) -> None:
    method = moved(name, targets=targets)
    export_adapter(tmp_path / "adapter", method)
    plain = make_backbone("modernbert").model
    torch.manual_seed(5)
    torch.nn.init.normal_(plain.classifier.weight)  # replaced by the adapter's
    plain.load_state_dict(method.replaced_weights(), strict=False)
    assert method.replaced_weights().keys() <= plain.state_dict().keys()
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits_of(loaded), logits_of(method.backbone.model), rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["classifier", "head"] and FUSED in config["target_modules"]


def test_the_frozen_backbone_stays_bit_for_bit_and_the_head_moves() -> None:
    before = make_backbone("modernbert").model.state_dict()
    method = moved("lora", targets=["k", "f1"])
    after = {name.replace(".base.", "."): value for name, value in method.backbone.model.state_dict().items()}
    for layer in (0, 1):
        parts = [after.pop(f"model.layers.{layer}.attn.Wqkv.{part}.weight") for part in "qkv"]
        after[f"model.layers.{layer}.attn.Wqkv.weight"] = torch.cat(parts)
    heads = {"head.dense.weight", "head.norm.weight", "classifier.weight", "classifier.bias"}
    assert set(method.backbone.head_parameters()) == heads
    assert {name for name, value in before.items() if not torch.equal(after[name], value)} == heads
    assert method.parameters()["adapter"] == 2 * 3 * ((24 + 24) + (24 + 80))


@pytest.mark.parametrize("name", ["lora2", "vera"])
def test_a_saved_state_and_a_merge_give_the_same_logits(name: str) -> None:
    method = moved(name)
    logits = logits_of(method.backbone.model)
    other = make_method(name, make_backbone("modernbert"), seed=2)
    load_trained_state(other, trained_state(method))
    assert torch.equal(logits_of(other.backbone.model), logits)
    method.merge()
    torch.testing.assert_close(logits_of(method.backbone.model), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lora", "lora2", "vera"])
def test_both_engines_train_alike_in_fp32_and_bf16(name: str) -> None:
    fast, plain = (
        make_method(name, make_backbone("modernbert", dtype=torch.float64), engine=engine)
        for engine in ("fast", "plain")
    )
    for method in (fast, plain):
        train_steps(method, 3)
    torch.testing.assert_close(logits_of(fast.backbone.model), logits_of(plain.backbone.model), rtol=1e-6, atol=1e-8)
    narrow = make_method(name, make_backbone("modernbert"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train_steps(narrow, 3)
    assert torch.isfinite(logits_of(narrow.backbone.model)).all()


def test_a_tuner_of_peft_has_the_fused_map_whole(tmp_path: Path) -> None:
    method = moved("dora", targets=["q", "k", "v", "o"])
    export_adapter(tmp_path / "adapter", method)
    loaded = PeftModel.from_pretrained(make_backbone("modernbert").model, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits_of(loaded), logits_of(method.backbone.model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("bitfit", r"^model=random has no biases for method=bitfit to train: choose another method$"),
        (
            "ia3",
            r"^method\.targets=k,v,f2 has a part of attn\.Wqkv, one map .* PEFT tunes whole: .* q, k, v, or none$",
        ),
        ("longlora", r"^model=random is of type modernbert: method=longlora fits bert, roberta encoders, "),
        ("prefix", r"^model=random is of type modernbert: prefixes fit bert, roberta, deberta-v2 encoders, "),
        (
            "prompt",
            r"^model=random is of type modernbert: prompts at the input fit bert, roberta, deberta-v2 encoders, ",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name: str, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        make_method(name, make_backbone("modernbert"))


@pytest.mark.parametrize("name", ["lora", "lora2", "adalora", "sora", "vera", "full"])
def test_the_command_trains_it_and_plain_peft_predicts_the_same(
    name: str, bench: Callable[..., Told], tiny_folders: Folders, tmp_path: Path
) -> None:
    folder = tiny_folders("modernbert")
    quick = ("task=rte", "data.max_train=40", "data.max_eval=10", "train.epochs=2", "train.max_length=48", "device=cpu")
    told = bench("model=local", f"model.path={folder}", f"method={name}", *quick, f"results={tmp_path}")
    assert told.code == 0, told.err
    (cell,) = (tmp_path / "cells").iterdir()
    record = json.loads((cell / "record.json").read_text())
    assert record["result"]["parameters"]["head"] == 24 * 24 + 24 + 2 * 24 + 2
    if name == "full":
        assert not (cell / "adapter").exists()
        return
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
    loaded, tokenizer = PeftModel.from_pretrained(model, cell / "adapter").eval(), AutoTokenizer.from_pretrained(folder)
    stored = json.loads((cell / "predictions.json").read_text())["dev"]["best"]
    rows = list(zip(*sample(load_task("rte", "mini").splits["dev"], 10).texts.values(), strict=True))
    with torch.no_grad():
        for texts, wanted in zip(rows, stored, strict=True):
            logits = loaded(**tokenizer(*texts, truncation=True, max_length=48, return_tensors="pt")).logits[0]
            torch.testing.assert_close(logits, torch.tensor(wanted), rtol=1e-4, atol=1e-4)


# --- the files ---


def published(folder: Path, target: Path, table: str) -> Path:
    """The folder as its authors publish it: the pretraining's model, and the tied table under `table` alone."""
    shutil.copytree(folder, target)
    weights = {f"model.{name}": tensor for name, tensor in load_file(target / "model.safetensors").items()}
    weights[table] = weights.pop("model.embeddings.tok_embeddings.weight")
    torch.manual_seed(3)
    weights |= {"head.dense.weight": torch.randn(24, 24), "head.norm.weight": torch.rand(24)}
    save_file(weights | {"decoder.bias": torch.zeros(400)}, target / "model.safetensors", {"format": "pt"})
    values = json.loads((target / "config.json").read_text()) | {"architectures": ["ModernBertForMaskedLM"]}
    (target / "config.json").write_text(json.dumps(values))
    return target


@pytest.mark.parametrize("table", ["decoder.weight", "model.embeddings.tok_embeddings.weight"])
def test_published_files_give_the_encoder_and_the_head_that_was_pretrained(
    table: str, tiny_folders: Folders, tmp_path: Path
) -> None:
    new = load(published(tiny_folders("modernbert"), tmp_path / "published", table)).model.state_dict()
    known = load(tiny_folders("modernbert")).model.state_dict()
    stored = load_file(tmp_path / "published" / "model.safetensors")
    for name, value in new.items():
        if name.startswith("model."):
            assert torch.equal(value, known[name]), name
        elif name.startswith("head."):
            assert torch.equal(value, stored[name]), name


def test_weights_and_first_head_are_those_of_transformers(tiny_folders: Folders) -> None:
    ours = load(tiny_folders("modernbert"))
    torch.manual_seed(0)
    theirs = AutoModelForSequenceClassification.from_pretrained(tiny_folders("modernbert"), num_labels=2)
    assert all(torch.equal(p, q) for p, q in zip(ours.model.parameters(), theirs.parameters(), strict=True))
    assert ours.tokenizer is not None and ours.tokenizer.model_max_length == 64


def without(name: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (without("layers.0.attn.Wqkv.weight"), r"the weights lack model\.layers\.0\.attn\.Wqkv\.weight"),
        (without("embeddings.tok_embeddings.weight"), r"the weights lack model\.embeddings\.tok_embeddings\.weight"),
        (
            lambda t: [t.pop(name) for name in list(t) if "layers.1." in name],
            "config.json says 2 layers, the weights have 1",
        ),
        (lambda t: [t.pop(name) for name in list(t) if "layers." in name], "the weights hold no layer 0 of an encoder"),
        (
            lambda t: t.update({"layers.0.attn.Wqkv.weight": torch.zeros(71, 24)}),
            r"is \(71, 24\), config\.json needs \(72, 24\)",
        ),
        (
            lambda t: t.update({"layers.0.attn.query.weight": torch.zeros(24, 24)}),
            r"query\.weight of the weights fits no place",
        ),
    ],
)
def test_its_files_are_read_strictly(
    change: Callable[[dict[str, torch.Tensor]], object], pattern: str, tiny_folders: Folders, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folders("modernbert"), tmp_path / "folder")
    path = tmp_path / "folder" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match=pattern):
        load(tmp_path / "folder")


def test_the_limit_of_its_positions_is_the_tokenizers(tiny_folders: Folders, tmp_path: Path) -> None:
    shutil.copytree(tiny_folders("modernbert"), tmp_path / "folder")
    path = tmp_path / "folder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 40}))
    backbone = load(tmp_path / "folder")
    assert backbone.tokenizer is not None and backbone.tokenizer.model_max_length == 40
    assert tiny_config("modernbert").layer_types == ["full_attention", "sliding_attention"]
