"""What a process is set to before it trains."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import lora2_bench
from lora2_bench.training.machine import code_state

KEPT = """
import torch
from lora2_bench.training.runtime import set_up_process
def resident():
    return int(open("/proc/self/statm").read().split()[1])
set_up_process(1)
tensors = [torch.ones(16 * 2**20, dtype=torch.uint8) for _ in range(8)]
before = resident()
del tensors
print(before, resident(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_a_process_is_deterministic_and_keeps_what_it_frees() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    before, after, threads, deterministic = done.stdout.split()
    assert (int(before) - int(after)) * 4096 < 4 * 2**20  # of 128 MiB
    assert (threads, deterministic) == ("1", "True")


def test_the_commit_of_a_checkout_is_known() -> None:
    root = Path(lora2_bench.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        assert code_state() == {"sha": None, "dirty": None}
        return
    told = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    found = code_state()
    assert found["sha"] == told.stdout.strip() and isinstance(found["dirty"], bool)
