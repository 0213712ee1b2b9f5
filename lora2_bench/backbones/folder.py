"""A backbone's folder, found, and checked before anything in it is loaded: JSON and safetensors only, and no code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Model
from lora2_bench.files.paths import user_path

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
_OLD_WEIGHTS = "pytorch_model.bin"
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
# Keys under which transformers looks for code: classes of the folder, pipelines, attention kernels of the hub.
_CODE = {
    "config.json": ("auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation"),
    "tokenizer_config.json": ("auto_map",),
}
_PLAIN_ATTENTION = (None, "eager", "sdpa")


def find_folder(model: Model, *, path: str | None, package: str | None, folder: str | None) -> Path:
    """The folder that holds a backbone's config, tokenizer and weights. No code of a package is run."""
    if model.source == "local":
        return user_path(str(path), "model.path")
    if model.source == "package":
        spec = importlib.util.find_spec(str(package))
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"model={model.name} needs the package {package}: pip install {str(package).replace('_', '-')}"
            )
        return Path(next(iter(spec.submodule_search_locations))) / str(folder)
    from lora2_bench.files.hub import model_snapshot  # the hub client is needed for hub backbones only

    return model_snapshot(str(model.hub_id), str(model.revision))


def read_config(root: Path, where: str) -> dict[str, Any]:
    """The folder's config.json. Raises UserError for anything but a JSON object, and for files that name code.

    `where` names the folder in errors, as `model.path=NAME`.
    """
    config = _object(root / "config.json", where)
    for name, keys in _CODE.items():
        if name != "config.json" and not (root / name).is_file():
            continue
        values = _object(root / name, where)
        for key in keys:
            if key in values and not (key.endswith("attn_implementation") and values[key] in _PLAIN_ATTENTION):
                raise UserError(f"{where}: {name} names code under {key}, and no model's code is run: take the key out")
    if config.get("quantization_config"):
        raise UserError(f"{where}: config.json has a quantization_config: give the weights in float32")
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"{where}: config.json has no model_type: give an encoder saved with save_pretrained")
    return config


def weights_files(root: Path, where: str, *, is_pinned: bool) -> list[Path]:
    """The files that hold the weights, in name order: model.safetensors, or those that the index names.

    A pinned revision of the hub may have pytorch_model.bin alone. Raises UserError for no weights, for a missing shard,
    for an index that names anything but files of the folder, and for safetensors files that belong to nothing.
    """
    beside = {file.name for file in root.glob("*.safetensors")}
    if (root / _INDEX).is_file():
        named = set(read_index(root, where).values())
    elif WEIGHTS in beside:
        named = {WEIGHTS}
    elif is_pinned and not beside and (root / _OLD_WEIGHTS).is_file():
        return [root / _OLD_WEIGHTS]
    elif any(root.glob("*.bin")):
        raise UserError(
            f"{where} has pickled weights, which could run code: write model.safetensors from them with "
            "AutoModel.from_pretrained(DIR).save_pretrained(DIR) where you trust them"
        )
    else:
        raise UserError(f"{where} has no {WEIGHTS}: give a folder with weights")
    if missing := sorted(named - beside):
        raise UserError(f"{where} lacks {shortened(missing)}, which {_INDEX} names: copy the folder again")
    if stray := sorted(beside - named):
        raise UserError(f"{where} has {shortened(stray)} beside its weights ({shortened(sorted(named))}): move it away")
    return sorted(root / name for name in named)


def read_index(root: Path, where: str) -> dict[str, str]:
    """Tensor name -> file name of a folder's index; empty without one. Raises UserError for names of other places."""
    if not (root / _INDEX).is_file():
        return {}
    weight_map = _object(root / _INDEX, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{where}: {_INDEX} has no weight_map: save the model with save_pretrained again")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{where}: {_INDEX} names {str(name)[:80]!r}: only safetensors files beside it are read")
    return weight_map


def check_vocabulary(root: Path, where: str) -> None:
    """Raise UserError for a folder that has no tokenizer's vocabulary."""
    if not any(file.is_file() for pattern in _VOCABULARIES for file in root.glob(pattern)):
        raise UserError(
            f"{where} has no tokenizer (tokenizer.json, vocab.txt, vocab.json or spm.model): save one there with "
            "save_pretrained"
        )


def shortened(names: list[str]) -> str:
    """At least one name: the first, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _object(path: Path, where: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{where} has no {path.name}: save the model there with save_pretrained") from None
    except OSError as error:
        raise UserError(f"{where}: {path.name} cannot be read ({error.strerror}): give a readable file") from None
    except (ValueError, RecursionError):
        raise UserError(f"{where}: {path.name} is no JSON: save the model with save_pretrained again") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: {path.name} holds a {type(values).__name__} instead of an object: save the model with "
            "save_pretrained again"
        )
    return values
