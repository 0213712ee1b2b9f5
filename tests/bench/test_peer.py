"""The peer: the same cell on both sides, of the same steps, and what a whole process took."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.bench import command, peer
from lora2_bench.errors import UserError


def cell(folder: Path, method: str) -> list[str]:
    """A cell of a tiny backbone and few generated rows."""
    tiny = ["model=local", f"model.path={folder}", "train.max_length=48"]
    return [*tiny, f"method={method}", "task=mrpc", "kr=8", "data=mini", "data.max_train=96", "data.max_eval=24"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_both_sides_train_the_same_steps(method: str, tiny_folders: Callable[[str], Path], tmp_path: Path) -> None:
    from lora2_bench import run
    from lora2_bench.bench.peer_trainer import train

    overrides, settings = peer.same_cell(cell(tiny_folders("bert"), method), 1.0)
    assert settings["steps"] == 3 and ("budget" in settings) is (method == "adalora")
    assert settings["targets"] == [
        *(f"attention.self.{name}" for name in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    ]
    record = run(*overrides, results=tmp_path / "results")
    reached = [train({**settings, "padded": padded, "output": str(tmp_path)}) for padded in (False, True)]
    for one in reached:
        assert one["steps"] == record.result["steps"] == 3
        assert 0 <= one["score"] <= 1 and set(one["metrics"]["dev"]) == {"accuracy", "f1"}
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_a_process_is_measured_and_its_failure_is_told() -> None:
    wall, cpu, peak, out = peer.measured(["-c", "import os; print(os.environ['WORD']); sum(range(10**7))"], WORD="ja")
    assert out == "ja\n" and 0.05 < cpu < wall + 1 and 5e6 < peak < 1e10
    with pytest.raises(UserError, match=r"ended with 3 \(why\)"):
        peer.measured(["-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])


def test_sides_take_turns_and_ratios_are_of_pairs(
    tiny_folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []
    seconds = iter([1.0, 4.0, 8.0, 5.0, 10.0, 3.0])

    def spent(side: str) -> peer.Spent:
        order.append(side)
        wall = next(seconds)
        return peer.Spent(wall, 2 * wall, 10**9, 2, 0.5)

    def of_peer(_: Any, side: str, __: Path) -> peer.Spent:
        return spent(side)

    monkeypatch.setattr(peer, "_here", lambda *_: spent(peer.HERE))
    monkeypatch.setattr(peer, "_peer", of_peer)
    left = ("method=lora", "task=mrpc", "kr=8", "data=mini")
    own = [word for word in cell(tiny_folders("bert"), "lora") if word not in left]
    words = ["--peer", "--methods", "lora", "--pairs", "2", "--fraction", "0.5", "--set", *own]
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    monkeypatch.delenv("GLUE_DIR", raising=False)
    command.main()
    assert order == [peer.HERE, peer.DYNAMIC, peer.MAXIMUM, peer.DYNAMIC, peer.MAXIMUM, peer.HERE]
    out = capsys.readouterr().out
    # Medians of a quarter and three fifths, and of an eighth and three tenths.
    assert "this package is at wall 0.42, cpu 0.42, peak 1.00 of it" in out
    assert "this package is at wall 0.21, cpu 0.21, peak 1.00 of it" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fraction", "0"], "--fraction 0.0 is not possible: give a number above 0, up to 1"),
        (["--methods", "lora2"], "--methods lora2 has no peer here: give lora, adalora, or both"),
    ],
)
def test_wrong_options(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--peer", *words])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2 and capsys.readouterr().err == f"error: {told}\n"
