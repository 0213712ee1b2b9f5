"""Search spaces: what is drawn, from what alone, and what lies at an edge."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.config.grid import plan_points
from lora2_bench.errors import UserError
from lora2_bench.files.paths import CONF
from lora2_bench.tune.space import Sampler, draw, edges, generator, read_space, sampler_of, widened

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


METHODS = sorted({path.stem for path in (CONF / "method").glob("*.yaml")} - {"peft"})  # which needs a tuner


@pytest.mark.slow
def test_every_method_has_a_space_of_numbers_that_change_its_cells() -> None:
    """A value that no option takes would make trials that differ in nothing."""
    points: list[tuple[str, ...]] = []
    for method in METHODS:
        names = [one.name for one in read_space(method)]
        assert "lr" in names, method
        points += [
            (f"method={method}", "task=rte", *more) for more in ([], *([f"recipe.{one}=0.0123"] for one in names))
        ]
    plain: dict[str, str] = {}
    for point, plan in zip(points, plan_points(points), strict=True):
        method = plan.cell.method["name"]
        if len(point) == 2:
            plain[method] = plan.cell.id
            assert draw(read_space(method), plan.config["recipe"], 0), method
        else:
            assert plan.cell.id != plain[method], point


def test_a_space_is_borrowed_with_the_recipe_as_far_as_it_is_used() -> None:
    assert read_space("head") == read_space("bitfit")
    assert read_space("dora") == read_space("lora")
    assert [one.name for one in read_space("ia3")] == ["lr"]  # it has no alpha
    with pytest.raises(UserError, match=r"method=nobody has no search space: write conf/space/nobody\.yaml"):
        read_space("nobody")
