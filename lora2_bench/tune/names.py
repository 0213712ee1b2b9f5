"""How a study's files and figures name its rows."""

from __future__ import annotations

from lora2_bench.experiment.suites import rows
from lora2_bench.paper.tables import METHODS


def name_of(row: str) -> str:
    """A row for readers, as `LoRA² k=1`; a variant with its own name, as `LoRA² k=8 (lora2_k8_eq8)`."""
    spec = rows()[row]
    size = f" {spec.size_name}={spec.size}" if spec.size_name else ""
    return METHODS.get(spec.method, spec.method) + size + _apart(row)


def label_of(row: str) -> str:
    """A row's label in figures, as `lora2 k=1`; its first word chooses the colour."""
    return rows()[row].label + _apart(row)


def is_variant(row: str) -> bool:
    """Whether another row has the name of its method and size: `lora2_k8_eq8` beside `lora2_k8`."""
    spec = rows()[row]
    plain = f"{spec.method}_{spec.size_name}{spec.size}"
    return row != plain and plain in rows()


def _apart(row: str) -> str:
    return f" ({row})" if is_variant(row) else ""
