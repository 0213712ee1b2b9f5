"""Ctrl-C at any moment of any command, once or twice: one line and exit code 130; and a worker that is fed garbage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Each command's process sends itself Ctrl-C at the moment that a module is first asked for.
AT_IMPORT = """
import os, runpy, signal, sys
command, moment, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000): pass  # the handler runs between two instructions
            finally:
                if times == 2:
                    os.kill(os.getpid(), signal.SIGINT)
        return None
sys.meta_path.insert(0, Finder())
sys.argv = [command, *sys.argv[4:]]
runpy.run_module(command, run_name="__main__", alter_sys=True)
"""

MOMENTS = [
    ("lora2_bench", "hydra", 1),
    ("lora2_bench", "torch", 2),
    ("lora2_bench.sweep", "lora2_bench.sweep.command", 2),
    ("lora2_bench.status", "lora2_bench.sweep.states", 1),
    ("lora2_bench.tune", "lora2_bench.tune.stages", 1),
    ("lora2_bench.publish", "lora2_bench.tracking.wandb_runs", 1),
    ("lora2_bench.report", "pandas", 2),
    ("lora2_bench.bench", "lora2_bench.bench.command", 1),
    ("lora2_bench.runner.worker", "hydra", 1),
]
ARGUMENTS = {
    "lora2_bench": ["method=bitfit", "device=cpu"],
    "lora2_bench.report": ["tables", "--results", "."],
    "lora2_bench.publish": ["--results", "."],
    "lora2_bench.status": ["suite=table1"],
    "lora2_bench.sweep": ["suite=table1"],
    "lora2_bench.tune": ["study=smoke", "stage=plan"],
}


def start(code: str, *arguments: str, folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(
        [sys.executable, *(["-c", code] if code else []), *arguments],
        input=text,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
        check=False,
        restore_signals=True,
    )


@pytest.mark.parametrize(("command", "moment", "times"), MOMENTS)
def test_ctrl_c_while_libraries_load_is_one_line(command: str, moment: str, times: int, tmp_path: Path) -> None:
    job = '[{"id": "x", "overrides": [], "log": "%s"}]\n' % (tmp_path / "log")
    done = start(AT_IMPORT, command, moment, str(times), *ARGUMENTS.get(command, []), folder=tmp_path, text=job)
    told = done.stderr + ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else "")
    lines = [line for line in told.splitlines() if not line.startswith("---")]
    assert (done.returncode, lines) == (130, ["stopped by Ctrl-C"])
    assert done.stdout == ""


GARBAGE = ["\x00\xff\n", "{\n", "[]\n", "7\n", '{"id": "x"}\n', "[" * 100_000 + "\n", "x" * 1_000_000]
GARBAGE += ['[{"id": 1, "overrides": [], "log": "l"}]', '[{"id": "x", "overrides": [3], "log": "l"}]', '{"id": "x"}']


def test_a_worker_that_is_fed_garbage_ends_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from lora2_bench.runner.worker import next_pack

    for text in GARBAGE:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogateescape"))))
        with pytest.raises(SystemExit) as stop:
            next_pack()
        assert stop.value.code == 2
    done = start("", "-m", "lora2_bench.runner.worker", folder=tmp_path, text="garbage\n")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert done.stderr.startswith("error: the input is no JSON line")
    assert list(tmp_path.iterdir()) == []


def test_a_process_in_the_background_goes_on_ignoring_ctrl_c() -> None:
    from lora2_bench.errors import one_line_on_interrupt

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with one_line_on_interrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
