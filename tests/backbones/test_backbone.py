"""Backbones as the command loads them: transformers' own weights, read once for all cells of a process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.backbones.load import copy_trained_parameters, load_backbone
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Model
from tests.conftest import ARCHITECTURES, Told
from tests.methods.helpers import method_class, options_of

Folders = Callable[[str], Path]
LOCAL = Model(name="local", source="local", sha256=None, hub_id=None, revision=None)


def load(folder: Path, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return load_backbone(LOCAL, 3, path=str(folder))


def encoder(backbone: Backbone) -> dict[str, torch.Tensor]:
    head = set(backbone.head_parameters())
    return {name: p for name, p in backbone.model.named_parameters() if name not in head}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_and_first_head_are_those_of_transformers(architecture: str, tiny_folders: Folders) -> None:
    ours = load(tiny_folders(architecture), seed=5)
    torch.manual_seed(5)
    theirs = AutoModelForSequenceClassification.from_pretrained(tiny_folders(architecture), num_labels=3)
    assert all(torch.equal(p, q) for p, q in zip(ours.model.parameters(), theirs.parameters(), strict=True))
    assert not ours.model.training


@pytest.mark.parametrize("name", ["full", "bitfit", "lora2"])
def test_what_is_frozen_is_shared_and_what_trains_is_not(name: str, tiny_folders: Folders) -> None:
    one, other = load(tiny_folders("bert")), load(tiny_folders("bert"))
    before = {key: value.clone() for key, value in other.model.state_dict().items()}
    kind = method_class(name)
    method = kind(kind.parse(options_of(name)), 20)
    method.inject(one, torch.Generator())
    copy_trained_parameters(one)
    shared = {p.data_ptr() for p in other.model.parameters()}
    for parameter in one.model.parameters():
        frozen = not parameter.requires_grad
        assert (parameter.data_ptr() in shared) == frozen
        if not frozen:
            parameter.data.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in other.model.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in load(tiny_folders("bert")).model.state_dict().items())


def test_a_file_that_changes_is_read_anew(tiny_folders: Folders, tmp_path: Path) -> None:
    for file in tiny_folders("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    one = load(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    other = load(tmp_path)
    assert other.sha256 != one.sha256
    assert all(torch.allclose(encoder(one)[name] + 1, p) for name, p in encoder(other).items())


def test_a_model_that_classifies_no_text_is_refused(tiny_folders: Folders, tmp_path: Path) -> None:
    for file in tiny_folders("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="is of type vit: give one of the encoders bert, roberta, deberta-v2"):
        load(tmp_path)


def test_cells_of_one_process_do_not_see_what_full_fine_tuning_changed(
    bench: Callable[..., Told], tiny_folders: Folders, tmp_path: Path
) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", "task=rte", "data.max_train=40", "data.max_eval=20")
    quick = (*command, "train.epochs=1", "train.max_length=48", "device=cpu")

    def predictions(folder: str) -> Any:
        (path,) = (tmp_path / folder).glob("cells/*/predictions.json")
        return path.read_text()

    assert bench(*quick, "method=lora", f"results={tmp_path / 'before'}").code == 0
    assert bench(*quick, "method=full", "train.lr=0.1", f"results={tmp_path / 'full'}").code == 0
    assert bench(*quick, "method=lora", f"results={tmp_path / 'after'}").code == 0
    assert predictions("before") == predictions("after")


# What published files hold besides the encoder, and the older names of what it needs.
PUBLISHED = {
    "bert": ("bert.", ["cls.predictions.bias", "cls.seq_relationship.weight", "bert.embeddings.position_ids"]),
    "roberta": ("roberta.", ["lm_head.bias", "roberta.embeddings.position_ids", "roberta.pooler.dense.weight"]),
    "deberta-v2": ("deberta.", ["lm_predictions.lm_head.bias", "mask_predictions.classifier.weight"]),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_files_as_they_are_published_give_the_same_encoder(
    architecture: str, tiny_folders: Folders, tmp_path: Path
) -> None:
    for file in tiny_folders(architecture).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    prefix, more = PUBLISHED[architecture]
    weights = load_file(tmp_path / "model.safetensors")
    old = {f"{prefix}{name}": t for name, t in weights.items() if "pooler" not in name}
    old = {name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for name, t in old.items()}
    save_file(old | {name: torch.arange(3) for name in more}, tmp_path / "model.safetensors", {"format": "pt"})
    new, known = load(tmp_path), load(tiny_folders(architecture))
    assert all(torch.equal(p, encoder(known)[name]) for name, p in encoder(new).items())


def test_shards_that_an_index_names_give_the_same_model(tiny_folders: Folders, tmp_path: Path) -> None:
    for file in tiny_folders("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    parts = {
        "model-00001-of-00002.safetensors": sorted(weights)[::2],
        "model-00002-of-00002.safetensors": sorted(weights)[1::2],
    }
    for file, names in parts.items():
        save_file({name: weights[name] for name in names}, tmp_path / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    one, other = load(tmp_path), load(tiny_folders("bert"))
    assert all(torch.equal(p, q) for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_half_precision_is_widened(tiny_folders: Folders, tmp_path: Path) -> None:
    for file in tiny_folders("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = {name: t.half() for name, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert all(p.dtype == torch.float32 for p in load(tmp_path).model.parameters())


def test_pickled_weights_are_read_of_a_pinned_revision_alone(
    tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in tiny_folders("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has pickled weights, which could run code: write model\.safetensors"):
        load(tmp_path)
    monkeypatch.setattr("lora2_bench.files.hub.model_snapshot", lambda *_: tmp_path)
    pinned = Model(name="tiny", source="hub", sha256=None, hub_id="someone/tiny", revision="0" * 40)
    torch.manual_seed(0)
    ours, known = load_backbone(pinned, 3), load(tiny_folders("bert"))
    assert all(torch.equal(p, q) for p, q in zip(ours.model.parameters(), known.model.parameters(), strict=True))
