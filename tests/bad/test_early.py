"""What needs no torch is refused before torch is imported, which takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import io, sys
from hydra._internal.hydra import Hydra
from lora2_bench.config.launch import launch
from lora2_bench.runner.run import run
Hydra.get_mode = lambda *_: None  # as tests/conftest.py does: no override here is Hydra's own
for words in sys.stdin.read().splitlines():
    sys.argv = ["lora2_bench", *words.split()]
    try:
        launch(run)
    except SystemExit as stop:
        assert stop.code == 2, words
    else:
        raise AssertionError(words)
    heavy = {"torch", "transformers", "accelerate", "peft"} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
COMMANDS = [
    "data=local",
    "data=local data.dir=.",
    "data=hub",
    "model=roberta_base",
    "model=local model.path=.",
    "model=local model.path=folder",
    "method._target_=no_such_module.Mine method.name=mine",
    "method._target_=lora2_bench.methods.nope.Nope method.name=mine",
    "method._target_=Mine method.name=mine",
    "threads=1000000",
    "init_from=0123456789abcdef",
    "results=/proc/nope",
]


def test_nothing_heavy_is_imported_for_what_is_refused_without_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"weights")
    environment = {name: value for name, value in os.environ.items() if name != "GLUE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input="\n".join(COMMANDS),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(COMMANDS) and all(line.startswith("error: ") for line in lines), done.stderr
    assert [path.name for path in (tmp_path / "results").rglob("*") if path.is_file()] == []


def test_wrong_options_of_the_benchmark_import_nothing_heavy(tmp_path: Path) -> None:
    start = "import sys\nfrom lora2_bench.bench.command import main\n"
    code = f"{start}try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, "--sizes", "gpt5"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
