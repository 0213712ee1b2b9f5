"""The id of a cell's settings: hashed where a cell is planned, and again where its record is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

AT = "@"
"""Between a cell's id and a rank: `ID@4` is the cell at rank 4, of a method whose one training serves several."""
LEFT_OUT: Mapping[str, Any] = {
    "definition": None,
    "init_from": None,
    "rng_version": 1,
    "train.looks": None,
    "train.head_lr": None,
    "method.l1_form": "mean",
    "method.reg.mean_over": "chosen",
}
"""Dotted name of a later setting -> the value that earlier versions had silently.

With that value it is left out of the id, so that the cells of earlier versions keep theirs.
"""


def id_of(values: Mapping[str, Any]) -> str:
    """16 hex digits of SHA-256 over a cell's settings, as `Cell.to_dict` gives them or a record holds them."""
    text = json.dumps(canonical(without_old_values(values)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_old_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's values without the settings that have their value in `LEFT_OUT`; a cell of then has none of them."""
    kept = dict(values)
    for name, old in LEFT_OUT.items():
        *sections, last = name.split(".")
        part: Any = kept
        for section_name in sections:
            if not isinstance(part.get(section_name), Mapping):
                break
            part[section_name] = part = dict(part[section_name])
        else:
            if last in part and part[last] == old:
                del part[last]
    return kept


def canonical(value: Any) -> Any:
    """One form for equal settings: 5.0 becomes 5, and a list of names (targets, terms) is sorted."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [canonical(item) for item in value]
        return sorted(items) if all(isinstance(item, str) for item in items) else items
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
