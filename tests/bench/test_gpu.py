"""The script for a GPU, every line of it on a CPU over one tiny encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora2_bench.bench import gpu
from lora2_bench.bench.sizes import SIZES, Size
from tests.conftest import tiny_config


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "minilm", Size(lambda layers: tiny_config("bert"), 4, 8))


def bench(monkeypatch: pytest.MonkeyPatch, results: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    quick = ("--device", "cpu", "--sizes", "minilm", "--precisions", "fp32", "--rounds", "2", "--warm-up", "0")
    told = ("--rows", "4", "--packs", "2", "--compiler", "eager", "--threads", "1", "--results", str(results))
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *quick, *told, *arguments])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    (path,) = (results / "bench").glob("gpu-*.json")
    return int(end.value.code or 0), json.loads(path.read_text())["parts"]


@pytest.mark.slow
def test_every_part_runs_and_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = SimpleNamespace(returncode=0, stdout="medians:\n", stderr="")
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: ran)  # tests/bench/test_peer.py runs them
    code, parts = bench(monkeypatch, tmp_path)
    assert code == 0 and list(parts) == list(gpu.PARTS)
    assert set(parts["engines"]["minilm fp32"]) == set(gpu.ENGINES)
    assert parts["pack"]["minilm, fp32, 4 rows, 2 cells"]["ratio"]["median"] > 0
    assert set(parts["attention"]["minilm fp32"]) == {"sdpa", "eager"}
    assert set(parts["compiled"]["minilm fp32"]) == {"as it is", "compiled, eager"}
    assert set(parts["rows"]["minilm, fp32, 4 rows"]) == {gpu.BASELINE, gpu.CASE}
    assert parts["peers"]["lines"] == ["medians:"]
    assert "side by side at" in capsys.readouterr().out


def test_a_part_that_fails_or_has_no_time_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> dict[str, Any]:
        raise RuntimeError("no luck")

    monkeypatch.setitem(gpu.PARTS, "engines", broken)
    code, parts = bench(monkeypatch, tmp_path, "--parts", "engines,rows")
    assert code == 1 and parts["engines"]["error"] == "RuntimeError: no luck" and "error" not in parts["rows"]
    clock = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    code, parts = bench(monkeypatch, tmp_path, "--parts", "rows", "--minutes", "1")
    assert code == 1 and parts["rows"]["left_out"] == "1 minutes were over"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--parts", "engins"), "--parts engins is unknown: give some of engines,"),
        (("--rows", "0"), "--rows 0 is not possible"),
        (("--device", "cuda"), "torch finds no GPU here"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: tuple[str, str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--device", "cpu", *arguments])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    err = capsys.readouterr().err
    assert end.value.code == 2 and told in err and err.count("\n") == 1
