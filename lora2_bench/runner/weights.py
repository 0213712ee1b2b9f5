"""The weights that a cell's method trained, kept beside its record with a digest, and read back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lora2_bench.errors import UserError, first_line
from lora2_bench.files.writing import write_bytes
from lora2_bench.training.checkpoints import content_digest


def save_weights(tensors: Mapping[str, Tensor], path: Path, cell_id: str) -> None:
    """Write a cell's trained weights as safetensors, whole or not at all. Raises OSError where that fails.

    A digest of them and of the cell's id is in the file's metadata, and the format that transformers asks for.
    """
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(stored, {"format": "pt", "sha256": _digest(stored, cell_id)}))


def load_weights(path: Path, origin: str, setting: str) -> dict[str, Tensor]:
    """The trained weights of cell `origin`, read for `setting` (as `init_from=ID`). Nothing in the file is executed.

    Raises UserError where the file cannot be read, is no safetensors, is another cell's, or holds other numbers than
    were written, NaN or infinity. That of an earlier version has no digest: it is read, and a line says so.
    """
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            raise OSError("it is no file")
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            told = file.metadata()
    except (OSError, SafetensorError, UnicodeError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _unusable(path, setting, first_line(error)) from None
    if told is None:
        print(f"warning: {path} has no digest (an earlier version wrote it): it is not checked", file=sys.stderr)
    elif told.get("sha256") != _digest(found, origin):
        raise _unusable(path, setting, "its content is not what was written")
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise _unusable(path, setting, f"{name} has NaN or infinity")
    return found


def check_parts(found: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], path: Path, setting: str) -> None:
    """Raise UserError unless read weights are the parts (name -> shape) that their cell trains."""
    shapes = {name: tensor.shape for name, tensor in found.items()}
    if differing := sorted(name for name in shapes | dict(wanted) if shapes.get(name) != wanted.get(name)):
        raise UserError(
            f"{setting}: {path} has other parts than its cell trains ({differing[0]}): train it anew with rerun=true"
        )


def _digest(tensors: Mapping[str, Tensor], cell_id: str) -> str:
    return content_digest([cell_id, {name: tensors[name] for name in sorted(tensors)}])


def _unusable(path: Path, setting: str, reason: str) -> UserError:
    return UserError(
        f"{setting}: {path} cannot be read ({reason}): copy its cell's folder anew, or train it again with rerun=true"
    )
