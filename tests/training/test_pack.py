"""Cells that train side by side over one backbone end as each does on its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora2_bench.backbones.joined import JoinedLinear, joined
from lora2_bench.config.compose import plan_of
from lora2_bench.errors import CellFailed, Interrupted
from lora2_bench.methods.lora import LoRA
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.runner.packed import run_packed
from lora2_bench.runner.run import run
from lora2_bench.training import pack as packs
from lora2_bench.training.pack import Pack

QUICK = (
    "task=rte",
    "data.max_train=48",
    "data.max_eval=20",
    "train.epochs=2",
    "train.batch_size=8",
    "train.eval_steps=4",
    "train.max_length=48",
    "device=cpu",
    "threads=1",
)
CELLS = (
    ("method=lora", "kr=2", "seed=0"),
    ("method=lora", "kr=8", "seed=1", "method.dropout=0.1"),  # which draws from torch's generator
    ("method=lora2", "kr=1", "seed=0"),
    ("method=adalora", "kr=2", "seed=2", "train.accumulate=2"),  # more forward passes a step
    ("method=sora", "kr=2", "seed=0", "train.epochs=1", "method.targets=[q,v]"),  # fewer steps, and fewer maps
    ("method=bitfit", "seed=0"),
)
LOGITS = 1e-3
"""Largest difference of the logits after training: BLAS adds in another order, and twelve steps of Adam follow."""


def overrides(cell: tuple[str, ...], folder: Path, results: Path, *more: str) -> list[str]:
    return [*QUICK, *cell, "model=local", f"model.path={folder}", f"results={results}", *more]


def outcome(results: Path, cell: str) -> dict[str, Any]:
    return json.loads(Store(results).path(cell).with_name("predictions.json").read_text())


def largest(one: Any, other: Any) -> float:
    """The largest difference of two stored predictions; all else in them is equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max(largest(one[key], other[key]) for key in one)
    return float((torch.tensor(one, dtype=torch.float64) - torch.tensor(other, dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("masks", ["sfc64", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ["bert", pytest.param("deberta-v2", marks=pytest.mark.slow)])
def test_every_cell_of_a_pack_ends_as_on_its_own(
    architecture: str, masks: str, tiny_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folders(architecture)
    told = [overrides(cell, folder, tmp_path / "alone", f"masks={masks}") for cell in CELLS]
    alone = [run(plan_of(one)) for one in told]
    ended = run_packed([plan_of([*one, f"results={tmp_path / 'packed'}"]) for one in told])
    for one, packed in zip(alone, ended, strict=True):
        assert isinstance(packed, Record) and packed.id == one.id
        assert packed.run["pack"] == len(CELLS) and "pack" not in one.run
        assert packed.seconds_per_step is None and one.seconds_per_step
        assert packed.result["parameters"] == one.result["parameters"] and packed.result["steps"] == one.result["steps"]
        for here, there in zip(packed.result["evaluations"], one.result["evaluations"], strict=True):
            assert here["train_loss"] == pytest.approx(there["train_loss"], abs=LOGITS)
        assert largest(outcome(tmp_path / "packed", one.id), outcome(tmp_path / "alone", one.id)) < LOGITS


def test_products_are_formed_together_and_only_in_training(
    tiny_folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    products = packs._products

    def counted(wishes: Any) -> Any:
        counts.append(len(wishes))
        return products(wishes)

    monkeypatch.setattr(packs, "_products", counted)
    cells = [("method=lora", f"kr={rank}", f"seed={rank}") for rank in (1, 2, 4)]
    ended = run_packed([plan_of(overrides(cell, tiny_folders("bert"), tmp_path)) for cell in cells])
    steps, layers, maps = ended[0].result["steps"], 2, 6  # type: ignore[union-attr]
    assert counts == [3] * (steps * layers * maps)


def test_a_cell_that_fails_leaves_the_others_as_they_are(
    tiny_folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty, calls = LoRA.penalty, 0

    def broken(self: LoRA) -> Any:
        nonlocal calls
        if self.options.r == 4:
            return float("nan") * sum(one.sum() for one in self.trainable().values())
        calls += self.options.r == 2
        if self.options.r == 2 and calls == 5:
            raise RuntimeError("no luck")
        return penalty(self)

    monkeypatch.setattr(LoRA, "penalty", broken)
    told = [overrides(cell, tiny_folders("bert"), tmp_path / "packed") for cell in CELLS[:3]]
    unlucky = overrides(("method=lora", "kr=4", "seed=0"), tiny_folders("bert"), tmp_path / "packed")
    other_task = [*told[1], "task=cola"]
    ended = run_packed([plan_of(one) for one in (*told, unlucky, other_task)])
    assert isinstance(ended[0], RuntimeError) and str(ended[0]) == "no luck"
    assert isinstance(ended[3], CellFailed) and "the training loss is nan" in str(ended[3])
    assert isinstance(ended[4], Record) and ended[4].is_done and "pack" not in ended[4].run
    for number in (1, 2):
        alone = run(plan_of([*told[number], f"results={tmp_path / 'alone'}"]))
        assert largest(outcome(tmp_path / "packed", alone.id), outcome(tmp_path / "alone", alone.id)) < LOGITS


@pytest.mark.slow
def test_a_pack_that_is_stopped_goes_on_in_another_and_alone(
    tiny_folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [overrides(cell, tiny_folders("bert"), tmp_path / "packed") for cell in CELLS[:3]]
    begin, calls = Pack.begin, 0

    def stopped(self: Pack) -> None:
        nonlocal calls
        calls += 1
        if calls == 14:  # in the fifth step of three cells
            os.kill(os.getpid(), signal.SIGTERM)
        begin(self)

    monkeypatch.setattr(Pack, "begin", stopped)
    ended = run_packed([plan_of(one) for one in [*told, [*told[0], "task=cola"]]])
    assert all(isinstance(one, Interrupted) for one in ended)
    for one in told:
        plan = plan_of(one)
        assert list((Store(tmp_path / "packed").running(plan.cell.id) / "checkpoints").glob("step-*.pt"))
    records = [run(plan_of(told[0])), *run_packed([plan_of(one) for one in told[1:]])]
    for record, one in zip(records, told, strict=True):
        assert isinstance(record, Record) and record.is_done and record.run["continued_from"] in (4, 5)
        alone = run(plan_of([*one, f"results={tmp_path / 'alone'}"]))
        assert largest(outcome(tmp_path / "packed", alone.id), outcome(tmp_path / "alone", alone.id)) < LOGITS


def test_afterwards_the_maps_are_as_they_were() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    model[0].requires_grad_(False)
    with joined(model, Pack("cpu")):
        assert isinstance(model[0], JoinedLinear) and type(model[1]) is torch.nn.Linear
        with torch.no_grad():
            assert model(torch.ones(1, 3)).shape == (1, 2)  # no product is asked for
    assert type(model[0]) is torch.nn.Linear and "joint" not in vars(model[0])
