"""The benchmark through its command line, on one small layer; and that its cases do the same work."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lora2_bench.bench import cases, command
from lora2_bench.bench.names import BASELINE, names
from lora2_bench.bench.sizes import SIZES, Size
from lora2_bench.bench.timing import ratio, time_steps
from lora2_bench.report.tables.write import write_tables
from tests.conftest import tiny_config


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny encoder under the name of a real one."""
    monkeypatch.setitem(SIZES, "minilm", Size(lambda layers: tiny_config("bert"), 4, 8))


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    command.main()


def test_every_case_is_timed_written_and_drawn_up_as_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(monkeypatch, "--rounds", "2", "--warm-up", "1", "--device", "cpu", "--results", str(tmp_path))
    (path,) = (tmp_path / "bench").glob("*.json")
    found = json.loads(path.read_text())
    steps = found["sizes"]["minilm"]["steps"]
    assert list(steps) == names() and steps[BASELINE]["ratio"]["median"] == 1
    assert all(step["seconds"]["median"] > 0 for step in steps.values())
    assert steps["lora2 k=1"]["parameters"] == steps["lora2 k=1 plain"]["parameters"] > 0
    assert {(pair["one"], pair["other"]) for pair in found["sizes"]["minilm"]["pairs"]} == set(cases.PAIRS)
    assert str(Path.home()) not in path.read_text()
    out = capsys.readouterr().out
    assert "lora2 k=1 / peft adalora r=8:" in out and str(path) in out
    written = write_tables(tmp_path)
    assert [one.name for one in written] == ["empty.md", "bench.md", "bench.tex", "bench.csv"]
    table = (tmp_path / "tables" / "bench.md").read_text()
    assert "| lora2 k=1 | " in table and "The paper prints LoRA² / AdaLoRA as 1.13 to 1.17" in table
    assert (tmp_path / "tables" / "bench.csv").read_text().count("\n") == 1 + len(steps)


def test_a_foreign_file_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.json").write_text('{"schema": 99}')
    (tmp_path / "bench" / "b.json").write_text("{}")
    assert [one.name for one in write_tables(tmp_path)] == ["empty.md"]
    told = capsys.readouterr().err
    assert "a.json is skipped: schema 99, not 1" in told and "b.json is skipped: not written by make bench" in told


def test_some_cases_can_be_chosen_and_the_frozen_backbone_is_always_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(monkeypatch, "--only", "sora", "--rounds", "1", "--device", "cpu", "--results", str(tmp_path))
    (path,) = (tmp_path / "bench").glob("*.json")
    found = json.loads(path.read_text())["sizes"]["minilm"]
    assert list(found["steps"]) == [BASELINE, "sora r=8", "sora r=8 plain"]
    assert [(pair["one"], pair["other"]) for pair in found["pairs"]] == [("sora r=8", "sora r=8 plain")]


def test_cases_are_chosen_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--rounds", "1", "--device", "cpu", "--results", str(tmp_path), "--cases")
    bench(monkeypatch, *common, "lora r=8,lora r=8 torch masks")
    assert "lora r=8 / lora r=8 torch masks:" in capsys.readouterr().out
    (path,) = (tmp_path / "bench").glob("*.json")
    steps = json.loads(path.read_text())["sizes"]["minilm"]["steps"]
    assert list(steps) == [BASELINE, "lora r=8", "lora r=8 torch masks"]
    with pytest.raises(SystemExit):
        bench(monkeypatch, *common, "lora")
    assert "--cases lora is unknown: give some of frozen backbone, lora r=1" in capsys.readouterr().err


def test_a_second_run_loses_nothing_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "roberta_base", SIZES["minilm"])
    common = ("--only", "lora r=1", "--rounds", "1", "--device", "cpu", "--results", str(tmp_path))
    bench(monkeypatch, *common)
    (path,) = (tmp_path / "bench").glob("*.json")
    first = json.loads(path.read_text())
    bench(monkeypatch, *common, "--sizes", "roberta_base")
    both = json.loads(path.read_text())
    assert list(both["sizes"]) == ["minilm", "roberta_base"] and both["sizes"]["minilm"] == first["sizes"]["minilm"]
    bench(monkeypatch, *common, "--precision", "bf16")
    old, new = sorted((tmp_path / "bench").glob("*.json"), key=lambda one: len(one.name), reverse=True)
    assert new == path and json.loads(old.read_text()) == both
    assert list(json.loads(new.read_text())["sizes"]) == ["minilm"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--sizes", "gpt5"), "--sizes gpt5 is unknown: give some of minilm, roberta_base"),
        (("--only", "nothing"), "--only nothing is in no name"),
        (("--rounds", "0"), "--rounds 0 is not possible: give at least 1"),
        (("--warm-up", "-1"), "--warm-up -1 is not possible: give at least 0"),
    ],
)
def test_wrong_arguments_end_with_one_line(
    arguments: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench(monkeypatch, *arguments, "--results", str(tmp_path))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_cases_of_one_method_take_the_same_step_and_share_the_frozen_weights() -> None:
    size = SIZES["minilm"]
    names = ["lora2 k=1", "lora2 k=1 plain", "lora2 k=1 dense"]
    methods = []

    def keep(*how: Any) -> object:
        methods.append(method(*how))
        return methods[-1]

    method = cases._method
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "_method", keep)
        made, _ = cases.make_cases(size, None, names, "cpu", "fp32")
    for model in (one.backbone.model for one in methods):
        model.config.hidden_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    for number in range(1, 4):
        for case in made:
            case.step(number)
    states = [{name: p.detach() for name, p in one.trainable().items()} for one in methods]
    for name, value in states[0].items():
        for other in states[1:]:
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)
    words = [one.backbone.model.get_input_embeddings().weight for one in methods]
    assert words[0] is words[1] is words[2]


def test_a_ratio_is_taken_within_a_round() -> None:
    done: list[int] = []
    case = cases.Case("one", done.append, 0)
    seconds = time_steps([case], rounds=3, warm_up=2, device="cpu")
    assert done == [1, 2, 3, 4, 5] and len(seconds["one"]) == 3
    assert ratio({"a": [1.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0]}, "a", "b").median == 2
