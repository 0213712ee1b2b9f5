"""Load a pinned backbone and its tokenizer from files on disk or in a package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, PretrainedConfig

from lora2_bench.backbones.backbone import ENCODERS, Backbone
from lora2_bench.backbones.folder import find_folder, read_config, read_index, weights_files
from lora2_bench.backbones.reading import read_weights
from lora2_bench.backbones.tokenizer import hash_tokenizer, load_tokenizer
from lora2_bench.backbones.weights import check_layers, fitted
from lora2_bench.errors import UserError, first_line
from lora2_bench.experiment.cell import Model
from lora2_bench.files.digests import hash_files, stamped

# How the names of transformers' classes of a type begin.
_FAMILIES = {"bert": "Bert", "roberta": "Roberta", "deberta-v2": "DebertaV2", "modernbert": "ModernBert"}
# What the pinned models' names stand for: type, layers and width.
_PINNED = {
    "minilm": ("bert", 6, 384),
    "roberta_base": ("roberta", 12, 768),
    "roberta_large": ("roberta", 24, 1024),
    "deberta_v3_base": ("deberta-v2", 12, 768),
    "deberta_v3_small": ("deberta-v2", 6, 768),
    "deberta_v3_xsmall": ("deberta-v2", 12, 384),
    "modernbert_base": ("modernbert", 22, 768),
    "ettin_17m": ("modernbert", 7, 256),
    "ettin_32m": ("modernbert", 10, 384),
    "ettin_68m": ("modernbert", 19, 512),
}


def load_backbone(
    model: Model,
    num_labels: int,
    *,
    cls_dropout: float | None = None,
    path: str | None = None,
    package: str | None = None,
    folder: str | None = None,
) -> Backbone:
    """The pinned backbone with a head of `num_labels` outputs, initialised from torch's global generator.

    Backbones of one process share the tensors read from the files, so
    `copy_trained_parameters` must come before training. Every weight
    of the encoder comes from the files; what of the head is not there is new. No code of the folder is run.

    Raises UserError where the files are missing, broken or not of one encoder, or their hash is not the pinned one.
    """
    root = find_folder(model, path=path, package=package, folder=folder)
    where = f"model.path={root.name}" if model.source == "local" else f"model={model.name}"
    values = read_config(root, where)
    files = stamped(weights_files(root, where, is_pinned=model.source == "hub"))
    digest = hash_files(files)
    if model.source == "package" and digest != model.sha256:
        raise UserError(
            f"model={model.name}: sha256 of model.safetensors is {digest[:16]}..., not the published "
            f"{str(model.sha256)[:16]}...: reinstall the package {package}"
        )
    _check_type(values, model.name, where)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = _config(root, num_labels, where)
    if cls_dropout is not None:
        config.classifier_dropout = config.cls_dropout = cls_dropout
    tensors = read_weights(files)
    if (index := read_index(root, where)) and index.keys() != tensors.keys():
        raise UserError(f"{where}: the index and the weights name other tensors: copy the folder again")
    check_layers(tensors, config.num_hidden_layers, where)
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    try:
        with torch.device("meta"):
            places = kind(copy.deepcopy(config))
    except Exception as error:  # sizes that do not fit each other fail in as many ways as there are layers
        raise _impossible(error, where) from None
    network = kind.from_pretrained(
        None, config=config, state_dict=fitted(tensors, places, where), dtype=torch.float32, trust_remote_code=False
    )
    tokenizer = load_tokenizer(root, config, where)
    return Backbone(network, tokenizer, model.name, digest, model.hub_id, hash_tokenizer(root))


def _check_type(values: dict[str, Any], name: str, where: str) -> None:
    """Raise UserError for a model that is no encoder known here, or not the one that its name stands for."""
    kind = values["model_type"]
    if kind not in ENCODERS:
        raise UserError(f"{where} is of type {kind[:80]}: give one of the encoders {', '.join(ENCODERS)}")
    for architecture in values.get("architectures") or ():
        if not str(architecture).startswith(_FAMILIES[kind]):
            raise UserError(f"{where}: config.json says type {kind} and {str(architecture)[:80]}: mend it")
    if name not in _PINNED:
        return
    found = (kind, values.get("num_hidden_layers"), values.get("hidden_size"))
    if found != _PINNED[name]:
        told, wanted = ("type {}, {} layers, width {}".format(*sizes) for sizes in (found, _PINNED[name]))
        raise UserError(f"{where} is not {name} ({wanted}): config.json says {told}: leave model.name out")


def _config(root: Path, num_labels: int, where: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(root, num_labels=num_labels, trust_remote_code=False)
    except Exception as error:  # the checks of transformers' config classes have no common error
        raise _impossible(error, where) from None


def _impossible(error: Exception, where: str) -> UserError:
    return UserError(f"{where}: config.json is not possible ({first_line(error)[:200]}): give the one of the weights")


def copy_trained_parameters(backbone: Backbone) -> None:
    """Copy all parameters that train: the tensors read from the files are shared by every backbone of this process."""
    for parameter in backbone.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()
