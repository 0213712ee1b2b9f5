"""SHA-256 over files, remembered by size and time of change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from threading import Lock

from lora2_bench.errors import UserError

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

Stamped = tuple[tuple[Path, int, int], ...]
"""Files with their size and time of change: the key under which what was read of them can be kept."""


def stamped(files: Iterable[Path]) -> Stamped:
    """The files as they stand now, in their order."""
    return tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)


def hash_folder(path: Path) -> str:
    """SHA-256 over the model, tokenizer and config files of a backbone's folder (names and contents)."""
    if not path.is_dir():
        raise UserError(
            f"model.path={path.name} is not a folder: give one with config.json, tokenizer files and weights"
        )
    kinds = (".json", ".txt", ".model", ".safetensors")
    try:
        if not any((path / name).is_file() for name in _WEIGHTS):
            raise UserError(
                f"model.path={path.name} has no model.safetensors: where you trust its other weights, write it with "
                "AutoModel.from_pretrained(DIR).save_pretrained(DIR)"
            )
        files = sorted(file for file in path.iterdir() if file.suffix in kinds)
        for file in files:
            if not file.is_file():  # to open a pipe would wait for ever
                raise UserError(f"model.path={path.name}: {file.name} is no file: give a folder as it was saved")
        return hash_files(stamped(files), named=True)
    except OSError as error:
        name = Path(error.filename or path).name
        raise UserError(f"model.path={path.name}: {name} cannot be read ({error.strerror}): mend its rights") from None


_hashing = Lock()


def hash_files(files: Stamped, *, named: bool = False) -> str:
    """SHA-256 over the bytes of files in their order; `named`: over each one's name and size too.

    Remembered, so that a sweep's many plans read a backbone once, and so do two threads.
    """
    with _hashing:
        return _hash(files, named=named)


@lru_cache(maxsize=16)
def _hash(files: Stamped, *, named: bool) -> str:
    digest = hashlib.sha256()
    for file, size, _ in files:
        if named:
            digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)  # goes on with the one digest of all files
    return digest.hexdigest()
