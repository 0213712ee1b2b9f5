"""The digest that a record carries of itself, and those of the files beside it: what was changed since is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ITS_OWN = (".safetensors", "retention.json")
"""Files at the top of a cell's folder that carry a digest themselves, and may be written again."""


def with_digest(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record's values with their own SHA-256 at the end."""
    return {**values, "sha256": _digest(values)}


def check_digest(values: Mapping[str, Any]) -> None:
    """Raise ValueError where a record is not what was written; those of earlier versions have no digest and pass."""
    content = {name: value for name, value in values.items() if name != "sha256"}
    if "files" not in content and "sha256" not in values:
        return
    if values.get("sha256") != _digest(content):
        raise ValueError("its content is not what was written: it was edited or damaged since")


def file_digests(folder: Path) -> dict[str, str]:
    """Name below a cell's new folder -> SHA-256, of every file that carries no digest of its own."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_digest(path) for name, path in paths.items() if "/" in name or not name.endswith(_ITS_OWN)}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of the values as JSON with sorted keys: indents and the order of keys do not count."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
