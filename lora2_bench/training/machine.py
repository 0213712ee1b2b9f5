"""Machine, library versions and code of a run, for its record: no host name, no path, no token."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lora2_bench import __version__

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "peft", "numpy", "scikit-learn", "scipy")

_CODE = ("lora2_bench", "conf")


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
    """The commit of this checkout, and whether code or configs differ from it; nulls for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"sha": None, "dirty": None}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *_CODE))}
    except (OSError, subprocess.SubprocessError):
        return {"sha": None, "dirty": None}


def hardware(device: str) -> dict[str, Any]:
    """Processor, cores, threads in use, and the GPU's name where one is used. No host name."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()


def peak_memory(device: str) -> dict[str, int]:
    """Peak resident bytes of this process, and of GPU memory where one is used."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device == "cuda":
        peak["gpu_bytes"] = torch.cuda.max_memory_allocated()
    return peak
