"""What a study may say: anything else is one line."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.errors import UserError
from lora2_bench.tune.study import Study, read_study, split_places

KEYS = ("trials", "seeds", "tasks", "primary", "secondary", "settings", "left_out", "seconds_per_step", "model", "data")
KEYS += ("tasks.rte", "settings.all", "settings.tasks", "settings.tasks.rte", "seconds_per_step.rte", "tuning_seed")
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2000),
    st.floats(-1, 2, allow_nan=False),
    st.sampled_from(["rte", "cola", "lora_r1", "lora2_k1", "all", "epochs", ""]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["rte", "all", "tasks", "rows", "lr"]), inner)
    ),
    max_leaves=6,
)


def everything_of(study: Study) -> list[Any]:
    """All that the command asks of a study."""
    asked: list[Any] = [study.trials, study.seeds, study.rows, study.comparisons, study.model, study.science()]
    for row, task in study.places:
        recipe = study.recipe(row, task)
        asked += [study.trial(row, task, {"lr": 0.1}), study.run(row, task, 11, recipe), recipe.name]
    return asked


@settings(deadline=None)
@given(st.sampled_from(KEYS), VALUES)
def test_any_value_is_a_study_or_one_line(key: str, value: Any) -> None:
    try:
        study = read_study("smoke", [f"study.{key}={json.dumps(value)}"])
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("study.")
        return
    assert everything_of(study)


def test_the_studys_choices_give_way_to_the_commands() -> None:
    study = read_study("smoke", (), ("model=local", "train.max_steps=3"), "mine")
    words = study.run("lora_r1", "rte", 11, study.recipe("lora_r1", "rte"))
    assert words == (
        "data=mini",
        "row=lora_r1",
        "task=rte",
        "protocol=paper",
        "seed=11",
        "looks=1",
        "recipe=local/tuned/mine/lora_r1-rte",
        "model=local",
        "train.max_steps=3",
    )


def test_places_are_no_part_of_a_study() -> None:
    places = [
        "results=r",
        "model.path=p",
        "data.dir=d",
        "device=cpu",
        "threads=1",
        "checkpoint.minutes=1",
        "tracker=wandb",
    ]
    rest = ["model=local", "data=mini", "data.max_train=3", "train.max_steps=4"]
    assert split_places([*places, *rest]) == (places, rest)
