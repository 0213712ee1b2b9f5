"""The loop's own promises: determinism, accumulation, evaluation without the penalty, and failing with a cause."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lora2_bench.errors import CellFailed
from lora2_bench.experiment.cell import Cell, Data, Model, Protocol, Train
from lora2_bench.methods.base import Method
from lora2_bench.tasks.encoding import EncodedSplit, RaggedRows
from lora2_bench.tasks.spec import TASKS
from lora2_bench.training.device import make_accelerator
from lora2_bench.training.evaluation import predictions_of
from lora2_bench.training.loop import Outcome, train
from tests.methods.helpers import make_backbone, make_method

SETTINGS = Train(
    epochs=2,
    max_steps=None,
    batch_size=6,
    accumulate=1,
    lr=1e-2,
    weight_decay=0.01,
    schedule="linear",
    warmup=0.1,
    max_grad_norm=1.0,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_eps=1e-8,
    max_length=16,
    cls_dropout=None,
    eval_steps=3,
    precision="fp32",
)


def make_cell(task: str = "rte", seed: int = 0, **changes: Any) -> Cell:
    return Cell(
        model=Model("tiny", "local", "0", None, None),
        task=task,
        method={"name": "lora2"},
        size=None,
        data=Data("mini", 0, None, None),
        train=dataclasses.replace(SETTINGS, **changes),
        protocol=Protocol("paper", 0.0, 0),
        seed=seed,
    )


def make_rows(count: int = 20, labels: int = 2, seed: int = 0) -> EncodedSplit:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(4, 12, (count,), generator=generator).tolist()
    ids = [torch.randint(5, 300, (size,), generator=generator).tolist() for size in sizes]
    if labels == 1:
        return EncodedSplit(RaggedRows.of(ids), None, [float(row[0] % 6) for row in ids], (0, 0))
    return EncodedSplit(RaggedRows.of(ids), None, [row[0] % labels for row in ids], (0, 0))


def run(cell: Cell, method_name: str = "lora2", dropout: bool = True, **changes: Any) -> tuple[Outcome, Method]:
    backbone = make_backbone("bert", num_labels=cell.spec.num_labels)
    if not dropout:
        for module in backbone.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        backbone.model.config.attention_probs_dropout_prob = 0.0
    rows = make_rows(labels=cell.spec.num_labels)
    if method_name == "lora2":
        changes = {"budget__t_init": 0.2, "budget__t_final": 0.3, **changes}
    method = make_method(method_name, backbone, total_steps=cell.train.total_steps(len(rows)), **changes)
    splits = {name: make_rows(14, cell.spec.num_labels, seed=i + 1) for i, name in enumerate(cell.spec.dev_splits)}
    accelerator = make_accelerator(cell.train.precision, "cpu")
    outcome = train(cell, method, rows, splits, accelerator, eval_batch_size=4, on_evaluation=lambda evaluation: None)
    return outcome, method


def same(one: Outcome, other: Outcome) -> bool:
    states = one.best_state.keys() == other.best_state.keys() and all(
        torch.equal(one.best_state[name], other.best_state[name]) for name in one.best_state
    )
    logits = all(torch.equal(one.last[name], other.last[name]) for name in one.last)
    return states and logits and one.evaluations == other.evaluations


@pytest.mark.parametrize("method", ["full", "lora", "lora2"])
def test_the_same_seed_gives_the_same_numbers_bit_for_bit(method: str) -> None:
    one, _ = run(make_cell(), method)
    torch.rand(17)  # whatever was drawn before changes nothing
    other, _ = run(make_cell(), method)
    assert same(one, other)
    assert not same(one, run(make_cell(seed=1), method)[0])


def test_it_stops_and_evaluates_where_it_is_told() -> None:
    outcome, _ = run(make_cell())
    assert outcome.steps == 8 and outcome.epochs == 2.0
    assert [evaluation.step for evaluation in outcome.evaluations] == [3, 6, 8]
    assert [evaluation.epoch for evaluation in outcome.evaluations] == [0.75, 1.5, 2.0]
    cut, _ = run(make_cell(max_steps=5, eval_steps=None))
    assert [evaluation.step for evaluation in cut.evaluations] == [4, 5]


@pytest.mark.parametrize(("looks", "steps"), [(1, [8]), (3, [3, 6, 8]), (4, [2, 4, 6, 8]), (8, [*range(1, 9)])])
def test_looks_are_evenly_spread_and_end_with_the_run(looks: int, steps: list[int]) -> None:
    outcome, _ = run(make_cell(looks=looks, eval_steps=None), "lora")
    assert [evaluation.step for evaluation in outcome.evaluations] == steps


@pytest.mark.parametrize("total", [7, 100, 3450])
def test_a_run_has_as_many_looks_as_it_is_told(total: int) -> None:
    for looks in range(1, min(total, 40) + 1):
        train_settings = dataclasses.replace(SETTINGS, looks=looks, eval_steps=None)
        steps = [step for step in range(1, total + 1) if train_settings.evaluates(step, total, 9)]
        gaps = [later - earlier for earlier, later in zip([0, *steps], steps, strict=False)]
        assert len(steps) == looks and steps[-1] == total and max(gaps) - min(gaps) <= 1


def test_the_facts_of_the_best_step_are_of_that_step() -> None:
    outcome, method = run(make_cell(eval_steps=1, lr=1e-12))  # nothing moves: the first score is the best
    assert (outcome.best_step, outcome.best_facts["ranks_kept"], outcome.best_facts["budget_met"]) == (1, 36, False)
    assert outcome.best_facts["active"] == method.parameters()["adapter"]
    assert (outcome.last_facts["ranks_kept"], outcome.last_facts["budget_met"]) == (12, True)


def test_best_is_the_first_highest_and_its_state_is_kept() -> None:
    outcome, method = run(make_cell())
    scores = [evaluation.score for evaluation in outcome.evaluations]
    assert outcome.best_step == outcome.evaluations[scores.index(max(scores))].step
    assert set(outcome.best_state) == set(method.trainable())


def test_accumulated_parts_make_the_same_step() -> None:
    whole, _ = run(make_cell(), dropout=False)
    parts, _ = run(make_cell(accumulate=3), dropout=False)
    for name, value in whole.last.items():
        torch.testing.assert_close(value, parts.last[name], rtol=1e-3, atol=1e-4)
    for one, other in zip(whole.evaluations, parts.evaluations, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)


def test_evaluation_never_sees_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A penalty of a million changes no reported loss, though it does train."""
    from lora2_bench.methods.lora2 import LoRA2

    outcome, _ = run(make_cell())
    monkeypatch.setattr(LoRA2, "penalty", lambda self: torch.tensor(1e6))
    constant, _ = run(make_cell())
    monkeypatch.setattr(LoRA2, "penalty", lambda self: None)
    without, _ = run(make_cell())
    assert same(constant, without)  # a constant has no gradient
    assert not same(outcome, without)
    for evaluation in constant.evaluations:
        assert evaluation.train_loss is not None and evaluation.train_loss < 10
        assert all(metrics["loss"] < 10 for metrics in evaluation.metrics.values())


def test_the_reported_loss_is_the_task_loss_of_the_logits() -> None:
    outcome, _ = run(make_cell())
    rows = make_rows(14, 2, seed=1)
    expected = torch.nn.functional.cross_entropy(outcome.last["dev"], torch.tensor(rows.labels))
    assert outcome.evaluations[-1].metrics["dev"]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    accuracy = sum(a == b for a, b in zip(predictions_of(outcome.last["dev"]), rows.labels, strict=True)) / 14
    assert outcome.evaluations[-1].metrics["dev"]["accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains(task: str) -> None:
    outcome, _ = run(make_cell(task, max_steps=2, eval_steps=None))
    assert set(outcome.last) == set(TASKS[task].dev_splits)
    assert all(logits.shape == (14, TASKS[task].num_labels) for logits in outcome.last.values())


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_end_at_zero_but_the_constant_one(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(make_cell(schedule=schedule, warmup=2, epochs=3, lr=1e-3))
    assert rates[:3] == pytest.approx([0.0, 5e-4, 1e-3])
    if schedule == "constant":
        assert rates[2:] == [1e-3] * len(rates[2:])
    else:
        assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 2e-4


def test_a_loss_that_is_no_number_ends_with_step_and_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    from lora2_bench.training import step

    original = step.loss_of

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return original(logits, labels) * (float("nan") if calls == 3 else 1.0)

    monkeypatch.setattr(step, "loss_of", loss_of)
    with pytest.raises(CellFailed, match=r"the training loss is nan: lower train\.lr=0\.01") as failure:
        run(make_cell(eval_steps=None))
    assert failure.value.step == 3


def test_clipping_bounds_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def after_backward(self: Method, step: int) -> None:
        grads = [p.grad for p in self.trainable().values() if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    monkeypatch.setattr(Method, "after_backward", after_backward)
    run(make_cell(max_grad_norm=0.05))
    assert max(norms) <= 0.05 * 1.001
    norms.clear()
    run(make_cell(max_grad_norm=0.0))
    assert max(norms) > 0.05


def test_bf16_gives_finite_scores() -> None:
    outcome, _ = run(make_cell(precision="bf16"))
    assert all(torch.isfinite(logits).all() for logits in outcome.last.values())
