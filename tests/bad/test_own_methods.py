"""A user's own method that fails, anywhere: one line that says which method, in what, and where; no traceback."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Told

Bench = Callable[..., Told]
Folders = Callable[[str], Path]
START = """
from dataclasses import dataclass
import torch
from torch import nn
from lora2_bench.errors import UserError
from lora2_bench.methods.base import Method, freeze_but_head

@dataclass(frozen=True)
class Options:
    pass

class Mine(Method):
    Options = Options

    def inject(self, backbone, generator):
        self.backbone = backbone
        freeze_but_head(backbone)
"""
OTHER = "class Mine(Method):\n    Options = Options\n"


def said(function: str, cause: str) -> str:
    return rf"method own_\w+\.Mine failed in {function} at own_\w+\.py:\d+ \({cause}\)$"


# What stands after the good start, and what the one line says.
AT_SET_UP: dict[str, tuple[str, str]] = {
    "inject fails": (
        "    def inject(self, backbone, generator):\n        raise RuntimeError('no\\nluck')",
        said("inject", "RuntimeError: no"),
    ),
    "inject divides by zero": (
        "    def inject(self, b, g):\n        1 / 0",
        said("inject", "ZeroDivisionError: division by zero"),
    ),
    "inject looks for a map": (
        "    def inject(self, backbone, generator):\n        backbone.model.get_submodule('nope')",
        said("inject", "AttributeError: .+nope.+"),
    ),
    "inject takes other arguments": (
        "    def inject(self):\n        pass",
        r"method own_\w+\.Mine failed in inject \(TypeError: .+inject\(\).+\)$",
    ),
    "inject keeps no backbone": (
        "    def inject(self, backbone, generator):\n        pass",
        r"method own_\w+\.Mine failed in inject \(AttributeError: .+backbone.+\)$",
    ),
    "inject trains nothing": (
        "    def inject(self, b, g):\n        self.backbone = b\n        b.model.requires_grad_(False)",
        r"leaves nothing to train: mend its inject$",
    ),
    "inject wants a file": (
        "    def inject(self, b, g):\n        open('/nowhere')",
        said("inject", "FileNotFoundError: .+"),
    ),
    "its start fails": (
        "    def __init__(self, *a):\n        raise ValueError('x')",
        said("__init__", "ValueError: x"),
    ),
    "check fails": (
        "    @classmethod\n    def check(cls, options, total_steps):\n        options.nope",
        said("check", "AttributeError: .+"),
    ),
    "parse fails": (
        "    @classmethod\n    def parse(cls, values):\n        values['k']",
        said("parse", "KeyError: 'k'"),
    ),
    "its options fail": (
        "@dataclass\nclass Bad:\n    def __post_init__(self):\n        raise TypeError('odd')\nMine.Options = Bad",
        said("__post_init__", "TypeError: odd"),
    ),
    "its own error": (
        "    def inject(self, b, g):\n        raise UserError('too wide: give less')",
        r"^too wide: give less$",
    ),
    "no options": (
        "    Options = property()\ndel Mine.Options",
        r"has no Options: give it a frozen dataclass of that name$",
    ),
    "no inject": (f"{OTHER}", r"is abstract: give a class that has inject, not a base$"),
    "no method": ("class Mine:\n    pass", r"is not a Method: derive it from lora2_bench\.methods\.base\.Method$"),
    "a function": ("def Mine():\n    pass", r"is not a Method"),
    "not there": ("del Mine", r"cannot be imported \(module 'own_\w+' has no attribute 'Mine'\): give MODULE\.CLASS$"),
    "a mistake in the module": (
        "1 / 0",
        r"cannot be imported \(ZeroDivisionError: division by zero at .+own_\w+\.py:\d+\)",
    ),
    "a line that is no Python": ("def def", r"cannot be imported \(SyntaxError: .+ at .+own_\w+\.py:\d+\)"),
    "a module that is missing": (
        "import no_such_module_at_all",
        r"cannot be imported \(No module named 'no_such_module_at_all'\)",
    ),
    "a module that ends": (
        "import sys\nraise RuntimeError('no GPU')",
        r"cannot be imported \(RuntimeError: no GPU at .+\)",
    ),
}
LAYER = """
class Layer(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.calls = base, 0

    def forward(self, x):
        self.calls += 1
        if self.calls > CALLS:
            raise RuntimeError('shapes differ')
        return self.base(x)

class Wrapping(Mine):
    def inject(self, backbone, generator):
        super().inject(backbone, generator)
        pooler = backbone.model.bert.pooler
        pooler.dense = Layer(pooler.dense)
Mine = Wrapping
"""
IN_TRAINING: dict[str, tuple[str, str, int]] = {
    "forward fails at once": (
        LAYER.replace("CALLS", "0"),
        said("forward", "RuntimeError: shapes differ").replace("Mine", "Wrapping"),
        1,
    ),
    "forward fails later": (
        LAYER.replace("CALLS", "1"),
        said("forward", "RuntimeError: shapes differ").replace("Mine", "Wrapping"),
        1,  # it is scored after the step
    ),
    "penalty fails": (
        "    def penalty(self):\n        return self.nope",
        said("penalty", "AttributeError: .+nope.+"),
        1,
    ),
    "after_step fails": (
        "    def after_step(self, step):\n        assert step < 2, 'late'",
        said("after_step", "AssertionError: late"),
        2,
    ),
    "at_scoring fails": ("    def at_scoring(self):\n        return {}[0]", said("at_scoring", "KeyError: 0"), 1),
}


@pytest.fixture
def own(tmp_path: Path, bench: Bench, tiny_folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """Run a small cell of the method that `text` makes of the good one: by `cell`, or by the user's own entry."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    name = "own_method"

    def run(text: str, door: Bench = bench) -> Told:
        (tmp_path / f"{name}.py").write_text(f"{START}\n{text}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
        words = ("model=local", f"model.path={tiny_folders('bert')}", "data.max_train=8", "data.max_eval=4", "task=rte")
        cell = ("train.epochs=2", "train.batch_size=8", "train.warmup=0", "train.max_length=48", "device=cpu")
        return door(
            *words,
            *cell,
            "method=full",
            f"method._target_={name}.Mine",
            "method.name=mine",
            "results=r",
            "recipe=local/full",
        )

    return run


@pytest.mark.parametrize("case", AT_SET_UP)
def test_a_method_that_fails_before_training_is_named(
    case: str, own: Callable[..., Told], cell: Bench, tmp_path: Path
) -> None:
    text, pattern = AT_SET_UP[case]
    told = own(text, cell)
    assert (told.code, told.out) == (2, ""), told
    assert told.err.startswith("error: ") and told.err.count("\n") == 1, told.err
    assert re.search(pattern, told.err.removeprefix("error: ").rstrip("\n")), told.err
    assert not list(tmp_path.glob("r/cells/*"))


@pytest.mark.parametrize("case", IN_TRAINING)
def test_a_method_that_fails_in_training_is_a_failed_cell(case: str, own: Callable[..., Told], tmp_path: Path) -> None:
    text, pattern, step = IN_TRAINING[case]
    told = own(text)
    assert told.code == 1, told
    line = told.err.strip().splitlines()[-1]
    assert "Traceback" not in told.err and line.startswith(f"error: step {step}: "), told.err
    assert re.search(pattern, line), line
    (path,) = tmp_path.glob("r/cells/*/record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "failed" and record["error"]["step"] == step


def test_the_good_one_trains(own: Callable[..., Told]) -> None:
    told = own("")
    assert told.code == 0, told.err


def test_the_traceback_is_there_for_who_asks(own: Callable[..., Told], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora2_bench.config.launch._stop", lambda *_: pytest.fail("it was hidden"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="failed in inject") as told:
        own("    def inject(self, b, g):\n        1 / 0")
    assert isinstance(told.value.__cause__, ZeroDivisionError)
