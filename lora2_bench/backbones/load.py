"""Load a pinned backbone and its tokenizer from files on disk or in a package."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, AutoTokenizer, PretrainedConfig

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Model
from lora2_bench.files.digests import Stamped, hash_files, stamped

_TOKENIZER_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)


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

    Backbones of one process share the tensors read from the files, so `copy_trained_parameters` must come before
    training. Raises UserError where the files are missing or their hash is not the pinned one.
    """
    root = find_folder(model, path=path, package=package, folder=folder)
    weights = stamped(_weights_files(root))
    digest = hash_files(weights)
    if model.source == "package" and digest != model.sha256:
        raise UserError(
            f"model={model.name}: sha256 of model.safetensors is {digest}, not the published {model.sha256}: reinstall "
            f"the package {package}"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(root, num_labels=num_labels)
    if cls_dropout is not None:
        config.classifier_dropout = config.cls_dropout = cls_dropout
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(f"model={model.name} is of type {config.model_type}, which classifies no text: give an encoder")
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    network = kind.from_pretrained(None, config=config, state_dict=dict(_read_weights(weights)), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(root)
    if (positions := _max_positions(config)) is not None:  # a tokenizer need not know its model's limit
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    files = [file for pattern in _TOKENIZER_FILES for file in sorted(root.glob(pattern))]
    return Backbone(network, tokenizer, model.name, digest, model.hub_id, hash_files(stamped(files)))


def _max_positions(config: PretrainedConfig) -> int | None:
    """The longest input in tokens; None for DeBERTa, whose positions are relative."""
    if config.model_type == "roberta":  # positions are counted from the padding id on
        return int(config.max_position_embeddings) - int(config.pad_token_id) - 1
    return int(config.max_position_embeddings) if config.model_type == "bert" else None


def find_folder(model: Model, *, path: str | None, package: str | None, folder: str | None) -> Path:
    """The folder that holds a backbone's config, tokenizer and weights. No code of a package is run."""
    if model.source == "local":
        return Path(str(path)).expanduser()
    if model.source == "package":
        spec = importlib.util.find_spec(str(package))
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"model={model.name} needs the package {package}: pip install {str(package).replace('_', '-')}"
            )
        return Path(next(iter(spec.submodule_search_locations))) / str(folder)
    from lora2_bench.files.hub import model_snapshot  # the hub client is needed for hub backbones only

    return model_snapshot(str(model.hub_id), str(model.revision))


def copy_trained_parameters(backbone: Backbone) -> None:
    """Copy all parameters that train: the tensors read from the files are shared by every backbone of this process."""
    for parameter in backbone.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()


def _weights_files(root: Path) -> list[Path]:
    """The weights files of a folder, in name order."""
    files = sorted(root.glob("*.safetensors")) or sorted(root.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{root.name} has no model.safetensors: give a folder with weights")
    return files


@lru_cache(maxsize=1)
def _read_weights(files: Stamped) -> dict[str, Tensor]:
    """Name -> tensor of weights files, read once for all cells of a process. No code in them is run."""
    found: dict[str, Tensor] = {}
    for file, _, _ in files:
        if file.suffix == ".safetensors":
            found |= load_file(file)
        else:
            found |= torch.load(file, map_location="cpu", weights_only=True)
    return {name: tensor.clone() for name, tensor in found.items()}  # a copy in memory: the file may be replaced
