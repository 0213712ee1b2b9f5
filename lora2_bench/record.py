"""The record of a cell: its schema, what it says of the machine, and the line that is printed of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lora2_bench import __version__
from lora2_bench.cell import Cell

SCHEMA = 1
DONE, FAILED = "done", "failed"
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "peft", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True)
class Record:
    """All that is kept of a cell, as `record.json`.

    Attributes:
        id: of the cell.
        status: done or failed.
        cell: the science, as `Cell.to_dict`.
        label: how tables name the method, with its size.
        cut: settings that made it a quick look, or moved it off its recipe.
        result: numbers that the same cell gives again: evaluations, best, last, parameters, ranks, data, backbone.
        run: what may differ between two runs of the same cell: times, memory, versions, code, hardware, command.
        error: step and cause of a failed cell.
        schema: version of this layout.
    """

    id: str
    status: str
    cell: dict[str, Any]
    label: str
    cut: list[str]
    result: dict[str, Any]
    run: dict[str, Any]
    error: dict[str, Any] | None = None
    schema: int = field(default=SCHEMA)

    @property
    def is_done(self) -> bool:
        """True for a finished cell."""
        return self.status == DONE

    def to_dict(self) -> dict[str, Any]:
        """Plain data, schema first."""
        values = asdict(self)
        return {"schema": values.pop("schema"), **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """The inverse of `to_dict`. Raises ValueError for another schema, KeyError or TypeError for another layout."""
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema {values.get('schema')} is not {SCHEMA}, the one this version reads")
        return cls(**values)


def result_line(record: Record, path: str) -> str:
    """The one line a run ends with: task, backbone, method and size, seed, score, parameters, seconds, path."""
    cell = record.cell
    head = f"{cell['task']} | {cell['model']['name']} | {record.label} | seed {cell['seed']}"
    if not record.is_done:
        error = record.error or {}
        return f"{head} | failed at step {error.get('step')}: {error.get('cause')} | {path}"
    result = record.result
    last = result["last"]["score"] if result["last"] else None
    score = f"{result['main_metric']} best {result['best']['score']:.4f}"
    score += f", last {last:.4f}" if last is not None else ""
    counts = f"{result['parameters']['adapter']:,} adapter parameters"
    cut = f" | cut: {'; '.join(record.cut)}" if record.cut else ""
    return f"{head} | {score} | {counts} | {record.run['seconds']:.1f} s | {path}{cut}"


def scrub(text: str) -> str:
    """`text` without home or other absolute paths, and without anything that looks like a token."""
    text = re.sub(r"(?<![\w.:/])(?:~|/)[^\s,;'\"]*/", ".../", text)
    return re.sub(r"\b(hf_[A-Za-z0-9]{8,}|[0-9a-f]{40,}(?![0-9a-f]))", "***", text)


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that can change a number."""
    found = {"lora2_bench": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout this package runs from; nulls for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {"sha": None, "dirty": None}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"sha": None, "dirty": None}


def hardware(device: str, threads: int) -> dict[str, Any]:
    """Processor, cores, threads in use, and the GPU's name where one is used. No host name."""
    import torch

    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"machine": platform.machine(), "processor": _processor(), "cores": os.cpu_count(), "threads": threads, "gpu": gpu}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()


def peak_memory(device: str) -> dict[str, int]:
    """Peak resident bytes of this process, and of GPU memory where one is used."""
    import resource
    import sys

    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device == "cuda":
        peak["gpu_bytes"] = torch.cuda.max_memory_allocated()
    return peak


def cell_of(record: Record) -> Cell:
    """The cell of a record."""
    return Cell.from_dict(record.cell)
