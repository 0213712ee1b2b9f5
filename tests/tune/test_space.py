"""Search spaces: what is drawn, from what alone, and what lies at an edge."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.errors import UserError
from lora2_bench.experiment.suites import rows
from lora2_bench.files.paths import CONF
from lora2_bench.tune.space import Sampler, draw, edges, generator, read_space, sampler_of, widened
from tests.composed import plan_of

LR = sampler_of("lr", {"log_uniform": {"around": 5}})
RANGES = [LR, sampler_of("lr", {"log_uniform": [1e-5, 1e-2]}), sampler_of("lr", {"uniform": [0.1, 0.4]})]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(RANGES))
def test_a_draw_lies_in_the_range_and_follows_from_its_parts_alone(trial: int, sampler: Sampler) -> None:
    recipe = {"lr": 1e-3}
    values = draw([sampler], recipe, "study", "lora_r1", "cola", trial)
    low, high = sampler.range(1e-3)
    assert low * 0.995 <= values["lr"] <= high * 1.005  # three digits
    assert values == draw([sampler], recipe, "study", "lora_r1", "cola", trial)
    assert (
        draw(
            [sampler, sampler_of("alpha", {"choice": [1, 2]})],
            {**recipe, "alpha": 1},
            "study",
            "lora_r1",
            "cola",
            trial,
        )["lr"]
        == values["lr"]
    )


def test_draws_are_pinned() -> None:
    """The trials of a study that was begun must be those of every version."""
    values = [draw(read_space("lora"), {"lr": 1e-3, "alpha": 16}, "s", "lora_r1", "cola", trial) for trial in (1, 2)]
    assert values == PINNED


PINNED = [{"lr": 0.00388, "alpha": 20.0}, {"lr": 0.000261, "alpha": 14.5}]


def test_logarithmic_draws_are_even_in_the_logarithm() -> None:
    shares = [math.log(LR.draw(generator("t", n), 1.0), 5) / 2 + 0.5 for n in range(2000)]
    for tenth in range(10):
        assert 140 < sum(tenth / 10 <= share < (tenth + 1) / 10 for share in shares) < 260


@pytest.mark.parametrize(("value", "side"), [(5, 1), (3.8, 1), (3.5, 0), (1, 0), (0.28, 0), (0.26, -1), (0.2, -1)])
def test_the_outermost_tenth_is_an_edge(value: float, side: int) -> None:
    """5 to the power of 0.8 is 3.62: a tenth of the range of logarithms from 1/5 to 5."""
    assert LR.edge(value, 1.0) == side
    told = {1: ["lr (high)"], 0: [], -1: ["lr (low)"]}
    assert edges([LR], {"lr": 1.0}, {"lr": value}) == told[side]


@settings(deadline=None)
@given(st.floats(0.2, 5), st.integers(0, 1000))
def test_a_winner_at_an_edge_is_widened_beyond_it_and_keeps_the_rest(value: float, part: int) -> None:
    winner = {"lr": value, "alpha": 1.0}
    space = [LR, sampler_of("alpha", {"log_uniform": {"around": 4}})]
    found = widened(space, {"lr": 1.0, "alpha": 1.0}, winner, part)
    if not LR.edge(value, 1.0):
        assert found is None
        return
    assert found is not None and found["alpha"] == 1.0
    assert 5 * 0.995 <= found["lr"] <= 25.1 if value > 1 else 0.2 / 5 * 0.99 <= found["lr"] <= 0.201


def test_a_choice_and_a_plain_range_have_no_edge() -> None:
    assert sampler_of("r", {"choice": [1, 2]}).edge(2, 1) == 0
    assert sampler_of("x", {"uniform": [0, 1]}).edge(1, 1) == 0
    assert {sampler_of("r", {"choice": [1, 2]}).draw(generator(n), 1) for n in range(20)} == {1, 2}


@pytest.mark.parametrize(
    "value",
    [
        {"log_uniform": {"around": 1}},
        {"log_uniform": {"about": 3}},
        {"log_uniform": [0, 1]},
        {"log_uniform": [2, 1]},
        {"uniform": [1]},
        {"choice": []},
        {"choice": ["a"]},
        {"normal": [0, 1]},
        5,
    ],
)
def test_a_bad_sampler_is_one_line(value: object) -> None:
    with pytest.raises(UserError, match=r"^lr.* is not possible: lr.* must be ") as told:
        sampler_of("lr", value)
    assert "\n" not in str(told.value)


def test_every_space_is_of_numbers_that_its_methods_recipe_has_and_uses() -> None:
    for path in sorted((CONF / "space").glob("*.yaml")):
        plan = plan_of(f"method={path.stem}", "task=rte")
        recipe = plan.config["recipe"]
        assert draw(read_space(path.stem), recipe, 0), path.stem
        for name in yaml.safe_load(path.read_text(encoding="utf-8")):
            changed = plan_of(f"method={path.stem}", "task=rte", changes={f"recipe.{name}": recipe[name] * 2})
            assert changed.cell.id != plan.cell.id, (path.stem, name)


def test_every_row_has_a_space() -> None:
    for row in rows().values():
        assert read_space(row.method)
    assert read_space("head") == read_space("bitfit")
    with pytest.raises(UserError, match=r"method=nobody has no search space: write conf/space/nobody\.yaml"):
        read_space("nobody")
