"""`make bench ARGS=--shared`: its table from processes that answer at once, and the process that takes the steps."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lora2_bench.bench import command, shared
from lora2_bench.bench.sizes import SIZES, Size
from lora2_bench.files.console import console
from tests.conftest import tiny_config

ANSWERS = [
    "-c",
    "import os, sys\nseconds = {'2000': 0.5, '0': 1.0}.get(os.environ['GOMP_SPINCOUNT'], 1.5)\n"
    "for _ in sys.stdin: print(seconds, flush=True)",
]


def test_the_table_has_all_ways_to_wait_alone_and_beside_a_busy_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared, "_STEPPER", ANSWERS)
    arguments = ["bench", "--shared", "--rounds", "2", "--device", "cpu", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    command.main()
    shortly, asleep, spinning = capsys.readouterr().out.splitlines()[-3:]
    assert shortly.split()[-5:] == ["0.500", "(0.500–0.500)", "0.500", "(0.500–0.500)", "1.00"]
    assert asleep.split()[-5:] == ["1.000", "(1.000–1.000)", "1.000", "(1.000–1.000)", "1.00"]
    assert spinning.split()[-5:] == ["1.500", "(1.500–1.500)", "1.500", "(1.500–1.500)", "1.00"]
    monkeypatch.setattr(shared, "_STEPPER", ["-c", "pass"])
    with pytest.raises(SystemExit, match="a process of --shared has ended"):
        command.main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--sizes", "minilm,roberta_base"])
    with pytest.raises(SystemExit):
        command.main()
    assert "--shared takes one size" in capsys.readouterr().err


def test_the_process_takes_a_step_for_every_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SIZES, "minilm", Size(lambda layers: tiny_config("bert"), 4, 8))
    monkeypatch.setattr(sys, "argv", ["shared", "minilm", "0", "0", "1"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    shared.main()
    assert len([float(line) for line in capsys.readouterr().out.split()]) == 2


@pytest.mark.parametrize(
    ("given", "waits"),
    [
        ({}, ("PASSIVE", "2000")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
        ({"GOMP_SPINCOUNT": "7"}, (None, "7")),
        ({"KMP_BLOCKTIME": "0"}, (None, None)),
    ],
)
def test_threads_of_a_command_wait_shortly_unless_the_user_says_how_they_wait(
    given: Mapping[str, str], waits: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, given.get(name, ""))  # put back at the end, whatever is set meanwhile
        if name not in given:
            monkeypatch.delenv(name)
    with console():
        assert (os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT")) == waits
