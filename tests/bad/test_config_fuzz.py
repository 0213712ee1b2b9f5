"""Any key of the composed config set to any odd value: a cell is planned, or the run ends with one line."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lora2_bench.config.compose import plan_from, plan_of
from lora2_bench.config.messages import one_line
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.runner.preflight import check_places
from lora2_bench.runner.setup import check_fit
from tests.composed import composed, leaves

METHODS = ("lora2", "lora", "adalora", "sora", "vera", "prefix", "p_tuning", "dylora", "full", "loha")
ODD_TEXTS = [
    "",
    " ",
    "-",
    "--x",
    "~",
    "~nosuchuser",
    "..",
    "/",
    "/dev/null",
    "a\0b",
    "a\nb",
    "\ud800",
    "²",
    "0x10",
    "1_0",
]
ODD_TEXTS += [
    "nan",
    "inf",
    "1e999",
    "null",
    "true",
    "None",
    "x" * 5000,
    "/".join("ab" * 3000),
    "${seed}",
    "${nope}",
    "${",
]
ODD_TEXTS += [
    "${train.lr}",
    "${oc.env:NOPE}",
    "$(id)",
    "__import__('os')",
    "os.system",
    "lora2_bench.methods.base.Method",
]
ODD_NUMBERS = [0, -1, 1, 7, 2**31, 2**32, 2**53 + 1, 2**63, 10**30, 10**400, -(10**400), 0.5, -0.0, 1e-320, 1e308]
ODD_NUMBERS += [float("nan"), float("inf"), float("-inf")]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.integers(),
    st.floats(),
    st.sampled_from(ODD_TEXTS),
    st.text(max_size=20),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(st.one_of(SCALARS, st.sampled_from(["q", "v", "uv", "PQ"])), max_size=3),
    st.dictionaries(st.sampled_from(["name", "on", "r", "_target_", "1", "x y"]), SCALARS, max_size=3),
    st.lists(st.lists(SCALARS, max_size=2), max_size=2),
)


@cache
def config_of(method: str) -> DictConfig:
    config = composed(f"method={method}")
    OmegaConf.set_struct(config, False)
    return config


@cache
def keys_of(method: str) -> list[str]:
    """Every setting and every section."""
    names = [name for name in leaves(config_of(method)) if not name.startswith("hydra.")]
    sections = {name.rpartition(".")[0] for name in names} - {""}
    return [*names, *sorted(sections)]


def end_of(config: DictConfig, overrides: tuple[str, ...]) -> str | None:
    """The one line that a run would end with before it loads anything, or None where a cell is planned."""
    try:
        plan = plan_from(config, overrides)
        check_places(plan)
        check_fit(plan)
    except UserError as error:
        return str(error)
    except OmegaConfBaseException as error:  # as the command line does
        return one_line(error)
    assert Cell.from_dict(plan.cell.to_dict()).id == plan.cell.id
    return None


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder of its own: a path among the values may be a file of the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        yield  # type: ignore[misc]


@pytest.mark.slow
@settings(
    max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
)
@given(st.data())
def test_any_value_of_any_setting_plans_a_cell_or_ends_with_one_line(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    config = copy.deepcopy(config_of(method))
    changed = data.draw(st.lists(st.tuples(st.sampled_from(keys_of(method)), VALUES), min_size=1, max_size=2))
    try:
        for name, value in changed:
            OmegaConf.update(config, name, value, merge=False)
    except Exception:  # OmegaConf itself takes no such value: it cannot be composed
        return
    line = end_of(config, tuple(f"{name}={value}" for name, value in changed))
    if line is not None:
        assert line and "\n" not in line and "Traceback" not in line and len(line) < 1000, line
    assert not list(Path.cwd().iterdir())


WORDS = st.one_of(st.sampled_from(ODD_TEXTS), st.text("=,[]{}()$'\"\\ ~+-.:ab1²", max_size=12), VALUES.map(str))


@settings(
    max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
)
@given(st.sampled_from(["seed", "kr", "train.lr", "task", "method", "results", "x"]), WORDS)
def test_any_word_of_the_command_line_does_so_too(name: str, word: str) -> None:
    try:
        plan_of([f"{name}={word}"])
    except UserError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < 6000, line


def test_the_fuzz_reaches_every_setting() -> None:
    found: set[Any] = set(keys_of("lora2"))
    assert {"seed", "kr", "train", "train.lr", "method.reg.on", "data.dir", "recipe.lr", "tracker"} <= found
