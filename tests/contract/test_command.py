"""The contract on methods that live outside the repository, good and broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora2_bench.contract.command import main
from lora2_bench.contract.properties import PROPERTIES
from tests.conftest import Told

MODULE = """
import torch
from lora2_bench.methods.lora import LoRA, LoRALinear


class Mine(LoRA):
    pass


class Moved(LoRALinear):
    def __init__(self, base, options, generator):
        super().__init__(base, options, generator)
        torch.nn.init.ones_(self.B)


class Broken(LoRA):
    def adapt(self, base, generator):
        return Moved(base, self.options, generator)
"""
METHOD = """
_target_: outside_methods.{kind}
name: {name}
size: r
recipe: lora
r: ${{first:${{kr}},${{recipe.r}}}}
alpha: ${{recipe.alpha}}
dropout: ${{recipe.dropout}}
targets: ${{recipe.targets}}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`--config-dir` with two methods, whose module is on the path."""
    (tmp_path / "method").mkdir()
    for kind in ("Mine", "Broken"):
        text = METHOD.format(kind=kind, name=kind.lower())
        (tmp_path / "method" / f"{kind.lower()}.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "outside_methods.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"--config-dir={tmp_path}"


@pytest.mark.slow
def test_a_good_one_passes_and_a_broken_one_is_told_its_property(own: str, call: Callable[..., Told]) -> None:
    told = call(main, "mine", own)
    lines = told.out.splitlines()
    assert told.code == 0, told.out + told.err
    assert [line.split()[:2] for line in lines[:-1]] == [["pass", one.__name__] for one in PROPERTIES]
    assert lines[-1] == f"mine: {len(PROPERTIES)} of {len(PROPERTIES)} properties hold"
    told = call(main, "broken", own)
    failed = [line.split(maxsplit=2)[1:] for line in told.out.splitlines() if line.startswith("fail")]
    assert told.code == 1 and [name for name, _ in failed] == ["starts_as_it_says"]
    assert failed[0][1].startswith("bert: the untrained method changes the logits, and starts_as_backbone is True (")


def test_wrong_words_are_one_line(call: Callable[..., Told]) -> None:
    told = call(main, "loraa")
    assert told.code == 2 and told.err.startswith("error: method=loraa is not known: choose one of")
    assert "no method's name: give it first" in call(main, "method=lora").err
