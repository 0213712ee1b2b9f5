"""Settings of a training process: threads, deterministic operations, and the allocator."""

from __future__ import annotations

import ctypes
import os

import torch

# Parameters of glibc's malloc.h, which allows at most 32 MiB for the second.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _LARGEST_THRESHOLD = -1, -3, 32 * 2**20


def set_up_process(threads: int | None) -> None:
    """Set this process up for training, here and in what it starts; `threads` of the CPU, or as many as torch takes."""
    if threads:
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc's malloc keep freed memory for the next step.

    Otherwise every step returns its memory to the system and gets it back page by page: ten thousands of page faults.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
