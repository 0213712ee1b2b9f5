"""A cell's id: the same science has one name everywhere, and every scientific value has a part in it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell, Data, Model, Protocol, Train
from lora2_bench.experiment.checks import in_steps
from tests.composed import SCIENCE, composed, leaves, plan_of, weights_folder
from tests.made_records import make_cell

# Another possible value of every scientific setting of the default config. A new setting needs a line here.
ANOTHER: dict[str, Any] = {
    "model.name": "mine",
    "model.source": "hub",
    "model.sha256": "00" * 32,
    "model.hub_id": "someone/else",
    "model.revision": "e2da8e2f811d1448a5b465c236feacd80ffbac7b",
    "task.name": "mrpc",
    "method.name": "mine",
    "method.size": "r",
    "method.k": 2,
    "method.r": 4,
    "method.alpha": 8,
    "method.dropout": 0.1,
    "method.targets": ["q", "v"],
    "method.init_std": 0.1,
    "method.reg.on": ["uv"],
    "method.reg.form": "squared_sum",
    "method.reg.gamma": 0.2,
    "method.reg.mean_over": "chosen",
    "method.score": "full",
    "method.budget.target_r": 2,
    "method.budget.t_init": 10,
    "method.budget.t_final": 20,
    "method.budget.delta_t": 5,
    "method.budget.scale": True,
    "method.budget.beta1": 0.5,
    "method.budget.beta2": 0.5,
    "data.source": "hub",
    "data.seed": 1,
    "data.max_train": 100,
    "data.max_eval": 100,
    "train.epochs": 4,
    "train.max_steps": 100,
    "train.batch_size": 16,
    "train.accumulate": 2,
    "train.lr": 2e-3,
    "train.head_lr": 3e-3,
    "train.weight_decay": 0.1,
    "train.schedule": "cosine",
    "train.warmup": 10,
    "train.max_grad_norm": 0.5,
    "train.adam_beta1": 0.8,
    "train.adam_beta2": 0.99,
    "train.adam_eps": 1e-6,
    "train.max_length": 64,
    "train.cls_dropout": 0.1,
    "train.eval_steps": 10,
    "train.precision": "bf16",
    "train.looks": 5,
    "protocol.name": "clean",
    "protocol.held_out": 0.2,
    "protocol.split_seed": 1,
    "seed": 1,
    "init_from": "0123456789abcdef",
    "rng_version": 1,
}
# Where things lie on this machine, and which code runs: not science.
PLACES = {"model.package", "model.folder", "model.path", "data.dir", "method._target_"}
# What a value needs beside it; given on both sides, so that the named setting alone differs.
BESIDE: dict[str, dict[str, Any]] = {
    "model.source": {"model.hub_id": "someone/else", "model.revision": ANOTHER["model.revision"]},
    "protocol.held_out": {"protocol.name": "clean", "protocol.held_out": 0.1},
}


def scientific_settings() -> list[str]:
    return [name for name in leaves(composed()) if name.split(".")[0] in SCIENCE and name not in PLACES]


def test_every_setting_of_the_default_config_has_another_value_here() -> None:
    assert sorted(scientific_settings()) == sorted(ANOTHER)


@pytest.mark.parametrize("name", [name for name in ANOTHER if name != "protocol.name"])
def test_every_scientific_setting_changes_the_id(name: str) -> None:
    beside = BESIDE.get(name, {})
    assert plan_of(changes={**beside, name: ANOTHER[name]}).cell.id != plan_of(changes=beside).cell.id


def test_the_tracker_leaves_the_id_alone() -> None:
    assert plan_of("tracker=wandb").cell.id == plan_of().cell.id


def test_the_protocol_changes_the_id() -> None:
    assert plan_of("protocol=clean").cell.id != plan_of().cell.id


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("results", "/tmp/elsewhere"),
        ("rerun", True),
        ("predict_test", True),
        ("export.rank", 2),
        ("export.merged", True),
        ("device", "cpu"),
        ("threads", 1),
        ("engine", "plain"),
        ("masks", "torch"),
        ("eval_batch_size", 7),
        ("data.dir", "/somewhere"),
        ("model.package", "another"),
        ("model.folder", "another"),
        ("method._target_", "mine.LoRA2"),
    ],
)
def test_where_and_how_it_runs_leave_the_id_alone(name: str, value: object) -> None:
    assert plan_of(changes={name: value}).cell.id == plan_of().cell.id


def test_another_working_folder_leaves_the_id_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = plan_of().cell.id
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLUE_DIR", str(tmp_path))
    assert plan_of().cell.id == here


def test_a_local_backbone_is_its_files_and_not_its_folder(tmp_path: Path) -> None:
    one = weights_folder(tmp_path / "one", b"same")
    other = weights_folder(tmp_path / "deeper" / "other", b"same")
    changed_weights = weights_folder(tmp_path / "changed", b"else")
    ids = [local_id(folder) for folder in (one, other, changed_weights)]
    assert ids[0] == ids[1] != ids[2]


def local_id(folder: Path) -> str:
    return plan_of("model=local", changes={"model.path": str(folder)}).cell.id


def test_a_local_backbones_config_file_is_part_of_it(tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "one")
    before = local_id(folder)
    (folder / "config.json").write_text('{"hidden_size": 2}', encoding="utf-8")
    assert local_id(folder) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"train.epochs": 5}, {"train.epochs": 5.0}),
        ({"method.alpha": 16}, {"method.alpha": 16.0}),
        ({"method.targets": ["q", "k", "v"]}, {"method.targets": ["v", "q", "k"]}),
        ({"method.reg.on": ["uv", "PQ"]}, {"method.reg.on": ["PQ", "uv"]}),
        ({"kr": 4}, {"method.k": 4}),
        ({"recipe.lr": 1e-3}, {"train.lr": 1e-3}),
    ],
    ids=["epochs", "alpha", "targets", "terms", "size", "the recipe's own value"],
)
def test_two_spellings_of_one_science_are_one_cell(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert plan_of(changes=one).cell.id == plan_of(changes=other).cell.id


def test_the_id_of_a_known_cell_has_not_changed() -> None:
    # If this fails, every stored record is orphaned: change the id only on purpose, and say so in CHANGELOG.
    assert make_cell().id == "65e31d2083210ad5"


def test_an_id_is_16_hex_digits() -> None:
    cell_id = make_cell().id
    assert len(cell_id) == 16
    assert set(cell_id) <= set("0123456789abcdef")


settings_of_train = st.fixed_dictionaries(
    {
        "epochs": st.floats(0.1, 1000) | st.integers(1, 1000),
        "lr": st.floats(1e-9, 1.0),
        "warmup": st.floats(0, 0.99) | st.integers(0, 10_000),
        "weight_decay": st.floats(0, 1),
        "max_steps": st.none() | st.integers(1, 10_000),
        "cls_dropout": st.none() | st.floats(0, 0.9),
        "precision": st.sampled_from(["fp32", "bf16"]),
    }
)


@settings(deadline=None, max_examples=50)
@given(settings_of_train, st.integers(0, 2**32 - 1), st.integers())
def test_a_cell_survives_its_json_with_keys_in_any_order(train: dict[str, Any], seed: int, shuffle: int) -> None:
    cell = make_cell(seed=seed, **train)
    again = Cell.from_dict(shuffled(json.loads(json.dumps(cell.to_dict())), random.Random(shuffle)))
    assert again == cell
    assert again.id == cell.id


def shuffled(value: Any, order: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    names = list(value)
    order.shuffle(names)
    return {name: shuffled(value[name], order) for name in names}


@settings(deadline=None, max_examples=50)
@given(settings_of_train, settings_of_train)
def test_two_recipes_share_an_id_only_if_they_are_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (make_cell(**one).id == make_cell(**other).id) == (one == other)


@pytest.mark.parametrize("part", ["model", "task", "method", "size", "data", "train", "protocol", "seed"])
def test_a_part_that_is_missing_is_named(part: str) -> None:
    values = make_cell().to_dict()
    del values[part]
    with pytest.raises(UserError, match=f"cell.{part} has no value"):
        Cell.from_dict(values)


def test_unknown_and_misplaced_values_are_named() -> None:
    values = make_cell().to_dict()
    with pytest.raises(UserError, match=r"cell\.sed is not a setting: did you mean cell\.seed\?"):
        Cell.from_dict({**values, "sed": 1})
    with pytest.raises(UserError, match=r"train\.learning_rate is not a setting"):
        Cell.from_dict({**values, "train": {**values["train"], "learning_rate": 1}})
    with pytest.raises(UserError, match="train=5 is not possible"):
        Cell.from_dict({**values, "train": 5})


def test_size_label_and_quotient() -> None:
    assert make_cell(method="lora2").method_label == "lora2 k=1"
    assert make_cell(method="lora2").quotient == 1 / 8
    assert (make_cell(method="lora").method_label, make_cell(method="lora").quotient) == ("lora r=8", None)
    assert (make_cell(method="full").method_label, make_cell(method="full").size_value) == ("full", None)


@pytest.mark.parametrize(
    ("settings", "rows", "steps"),
    [
        ({"epochs": 5, "batch_size": 32}, 2000, 315),
        ({"epochs": 0.5, "batch_size": 32}, 2000, 32),
        ({"epochs": 1, "batch_size": 32}, 32, 1),
        ({"epochs": 1, "batch_size": 32}, 33, 2),
        ({"epochs": 0.001, "batch_size": 32}, 10, 1),
        ({"epochs": 5, "batch_size": 32, "max_steps": 10}, 2000, 10),
        ({"epochs": 5, "batch_size": 32, "max_steps": 1000}, 2000, 315),
    ],
)
def test_steps_of_a_run(settings: dict[str, Any], rows: int, steps: int) -> None:
    assert make_cell(**settings).train.total_steps(rows) == steps


def test_a_share_of_all_steps_and_a_number_of_steps() -> None:
    assert in_steps(0.1, 315) == 32
    assert in_steps(10, 315) == in_steps(10.0, 315) == 10
    assert in_steps(0, 315) == in_steps(0.0, 315) == 0


def test_a_cell_cannot_be_changed() -> None:
    cell = make_cell()
    for part, name in ((cell, "seed"), (cell.train, "lr"), (cell.data, "seed"), (cell.protocol, "name")):
        with pytest.raises(AttributeError):
            setattr(part, name, 1)


def test_a_hub_backbone_must_be_pinned() -> None:
    with pytest.raises(UserError, match="revision=null is not possible"):
        Model("mine", "hub", None, "someone/mine", None)


def test_rows_made_by_the_package_need_a_seed_and_others_none() -> None:
    with pytest.raises(UserError, match=r"data\.seed=null"):
        Data("mini", None, None, None)
    assert Data("hub", None, None, None).seed is None


def test_the_paper_protocol_holds_nothing_out() -> None:
    with pytest.raises(UserError, match=r"held_out=0\.1"):
        Protocol("paper", 0.1, 0)


def test_all_settings_of_training_are_in_the_config() -> None:
    assert [name.removeprefix("train.") for name in leaves(composed()) if name.startswith("train.")] == list(
        Train.__dataclass_fields__
    )
