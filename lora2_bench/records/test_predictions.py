"""What a cell predicts of the test rows, which have no labels: logits beside its record, with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lora2_bench.errors import first_line
from lora2_bench.files.writing import write_bytes


@dataclass(frozen=True)
class Predicted:
    """A cell's predictions at its best checkpoint, by part (`test`; of MNLI `test_matched`, `test_mismatched`, `ax`).

    Attributes:
        logits: part -> (rows, outputs) float32, in the order of the file.
        rows: part -> SHA-256 of the texts that were predicted.
    """

    logits: Mapping[str, NDArray[np.float32]]
    rows: Mapping[str, str]


def write_predicted(path: Path, cell_id: str, predicted: Predicted) -> None:
    """Write a cell's predictions as safetensors, whole or not at all. Raises OSError where that fails."""
    rows = dict(sorted(predicted.rows.items()))
    logits = {name: np.ascontiguousarray(numbers) for name, numbers in predicted.logits.items()}
    about = json.dumps({"rows": rows, "sha256": _digest(cell_id, rows, logits)})
    write_bytes(path, save(logits, {"about": about}))  # two entries would have no fixed order


def read_predicted(path: Path, cell_id: str) -> Predicted | None:
    """The predictions of one cell, or None where there is no file. Nothing in it is executed.

    Raises ValueError with the reason where the file cannot be read, is another cell's, or is not as it was written.
    """
    try:
        if not path.exists():
            return None
        if not path.is_file():  # to open a pipe would wait for ever
            raise ValueError("it is no file")
        with safe_open(path, "np") as file:
            logits = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            about = json.loads((file.metadata() or {})["about"])
        rows, told = about["rows"], about["sha256"]
        is_whole = told == _digest(cell_id, rows, logits)
    except KeyError:
        raise ValueError("it is no file of test predictions") from None
    except (OSError, SafetensorError, TypeError, RecursionError) as error:
        raise ValueError(first_line(error)) from None
    if not is_whole:
        raise ValueError("its content is not what was written for this cell")
    return Predicted(logits, rows)


def _digest(cell_id: str, rows: Mapping[str, str], logits: Mapping[str, NDArray[np.float32]]) -> str:
    digest = hashlib.sha256(json.dumps([cell_id, rows]).encode())
    for name, numbers in sorted(logits.items()):
        digest.update(f"\0{name} {numbers.dtype} {numbers.shape}\0".encode())
        digest.update(numbers.data)
    return digest.hexdigest()
