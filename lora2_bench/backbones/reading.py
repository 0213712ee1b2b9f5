"""Files of weights to tensors, read once for all cells of a process, and ahead of their use."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lora2_bench.backbones.folder import shortened
from lora2_bench.errors import UserError, first_line
from lora2_bench.files.digests import Stamped

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_reading = Lock()


def read_weights(files: Stamped) -> dict[str, Tensor]:
    """What weights files hold, read once for all cells and threads of a process. No code in them is run.

    Raises UserError for a file that is no safetensors file, for a tensor in two files, and for NaN or infinity.
    """
    with _reading:
        return _read(files)


@lru_cache(maxsize=1)
def _read(files: Stamped) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file, _, _ in files:
        if file.suffix == ".safetensors":
            try:
                tensors = load_file(file)
            except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"{file.name} is no whole safetensors file ({first_line(error)}): copy it again"
                ) from None
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        if twice := sorted(found.keys() & tensors.keys()):
            raise UserError(f"{file.name} has {shortened(twice)}, as another file has: keep one of them")
        for name, tensor in tensors.items():
            if tensor.dtype in FLOATS and not _is_finite(tensor):
                raise UserError(f"{file.name}: {name} has NaN or infinity in float32: copy or save it again")
        found |= tensors
    return {name: tensor.clone() for name, tensor in found.items()}  # off the file, which may be replaced


def _is_finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = (bound.item() for bound in tensor.aminmax())
    most = torch.finfo(torch.float32).max
    return low >= -most and high <= most  # NaN fails both
