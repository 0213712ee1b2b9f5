"""What a process is set to before it trains: threads, deterministic operations, and memory that stays its own."""

from __future__ import annotations

import ctypes
import os

import torch

# Of glibc's malloc.h; 32 MiB is the most that it allows for the second.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _MOST = -1, -3, 32 * 2**20


def set_up_process(threads: int | None) -> None:
    """Set this process up for training, here and in what it starts; `threads` of the CPU, or as many as torch takes."""
    if threads:
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let malloc keep what is freed, for the next step, where it is glibc's.

    Otherwise a step's tensors go back to the system and come again page by page: ten thousands of page faults a step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(_M_MMAP_THRESHOLD, _MOST)
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
