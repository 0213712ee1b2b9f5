"""The documentation's examples, run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ADDING_A_METHOD.md"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a copy of the checkout, which must be what is imported there."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


# One process for both: most of its time goes to imports.
BOTH = """
import sys
import pytest
from lora2_bench.__main__ import main

main()
sys.exit(pytest.main("-p no:cacheprovider -p no:xdist tests/methods/test_contract.py -k lora_fa".split()))
"""


def test_the_added_method_is_two_files_that_run_and_pass_the_contract(
    tiny_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("conf", "lora2_bench", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "lora_fa.*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = re.findall(
        r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert [Path(name).suffix for name, _ in files] == [".py", ".yaml"]
    for name, text in files:
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text, encoding="utf-8")

    quick = ("data.max_train=32", "data.max_eval=16", "train.max_steps=4", "train.max_length=48", "device=cpu")
    backbone = ("model=local", f"model.path={tiny_folders('roberta')}")
    done = run(tmp_path, "-c", BOTH, "method=lora_fa", "kr=2", *backbone, *quick, "results=out")
    assert re.search(r"^rte .*\| lora_fa r=2 \|", done.stdout, re.MULTILINE), done.stdout[-3000:]
    trained = (24 * 4 + 40 + 24) * 2 * 2  # B alone: d_out of the six maps, two layers, rank 2
    assert f"{trained} adapter parameters" in done.stdout
    assert len(list((tmp_path / "out" / "cells").glob("*/adapter/adapter_model.safetensors"))) == 1
    assert re.search(r"\b[3-9]\d passed", done.stdout), done.stdout[-500:]
