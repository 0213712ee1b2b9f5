"""The head's own learning rate: the same schedule as the rest, for every method and both engines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lora2_bench.experiment.cell import Cell, Train
from lora2_bench.training.device import make_accelerator
from lora2_bench.training.step import TrainingStep
from tests.composed import composed, plan_of
from tests.methods.helpers import make_backbone, make_batch, make_method
from tests.training.test_loop import SETTINGS, make_cell

STEPS = 6
PLAIN = {"warmup": 0.0, "max_grad_norm": 0.0, "weight_decay": 0.1, "lr": 1e-2}


def trained(name: str, engine: str = "fast", steps: int = STEPS, **settings: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Trained parameters before and after `steps` of STEPS steps without dropout, `head` and `rest` apart."""
    method = make_method(name, make_backbone("bert", dtype=torch.float64), STEPS, engine)
    for module in method.backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    train = Train(**{**vars(SETTINGS), **PLAIN, **settings})
    taken = TrainingStep(method, train, STEPS, make_accelerator("fp32", "cpu"))
    head = set(method.backbone.head_parameters())
    before = {key: parameter.detach().clone() for key, parameter in method.trainable().items()}
    for step in range(1, steps + 1):
        taken(make_batch(rows=4 + step % 3), step)
    moved = {key: parameter.detach() - before[key] for key, parameter in method.trainable().items()}
    return {
        "head": {key: change for key, change in moved.items() if key in head},
        "rest": {key: change for key, change in moved.items() if key not in head},
    }


def largest(changes: dict[str, torch.Tensor]) -> float:
    return max(change.abs().max().item() for change in changes.values())


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("name", ["full", "bitfit", "lora", "vera"])
def test_the_first_step_moves_head_and_rest_by_their_own_rates(name: str, engine: str) -> None:
    """AdamW's first step is the rate itself wherever the gradient is well above eps."""
    moved = trained(name, engine, steps=1, weight_decay=0.0, head_lr=3e-4)
    assert largest(moved["head"]) == pytest.approx(3e-4, rel=1e-3)
    assert largest(moved["rest"]) == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("name", ["lora", "vera", "bitfit"])
def test_training_is_that_of_adamw_with_two_groups(name: str) -> None:
    """Torch's own AdamW, with each group's rate set by hand before each step."""
    method = make_method(name, make_backbone("bert", dtype=torch.float64), STEPS, "plain")
    head = set(method.backbone.head_parameters())
    before = {key: parameter.detach().clone() for key, parameter in method.trainable().items()}
    optimizers = {}
    for key, parameter in method.trainable().items():
        decay = 0.0 if parameter.ndim < 2 or key.endswith("bias") else 0.1
        optimizers[key] = torch.optim.AdamW([parameter], lr=1.0, weight_decay=decay)
    for step in range(1, STEPS + 1):
        method.before_step(step)
        batch = make_batch(rows=4 + step % 3)
        labels = batch.pop("labels")
        torch.nn.functional.cross_entropy(method.backbone.model(**batch).logits.float(), labels).backward()
        for key, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = (2e-3 if key in head else 1e-2) * (1 - (step - 1) / STEPS)
            optimizer.step()
            optimizer.zero_grad()
    slow = {key: parameter.detach() - before[key] for key, parameter in method.trainable().items()}
    for engine in ("fast", "plain"):
        moved = trained(name, engine, head_lr=2e-3)
        for key, change in (moved["head"] | moved["rest"]).items():
            torch.testing.assert_close(change, slow[key], rtol=1e-5, atol=1e-9, msg=lambda text, key=key: key + text)


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_the_rate_of_all_given_to_the_head_changes_nothing(engine: str) -> None:
    one, other = trained("lora", engine), trained("lora", engine, head_lr=PLAIN["lr"])
    for part in ("head", "rest"):
        for key, change in one[part].items():
            torch.testing.assert_close(other[part][key], change, rtol=1e-12, atol=1e-15)


def test_no_rate_of_the_head_leaves_groups_and_ids_as_they_were() -> None:
    method = make_method("lora", make_backbone("bert"))
    assert all("lr" not in group for group in method.param_groups(0.1))
    cell = make_cell()
    values = cell.to_dict()
    assert values["train"]["head_lr"] is None
    del values["train"]["head_lr"]  # as earlier records have it
    assert Cell.from_dict(values) == cell and Cell.from_dict(values).id == cell.id
    assert make_cell(head_lr=1e-2).id != cell.id


def test_a_recipe_gives_it_by_task_and_the_command_line_replaces_it() -> None:
    config = composed("model=roberta_base", "method=vera", "data=hub", "task=rte")
    assert (config.train.lr, config.train.head_lr) == (4e-3, 1e-2)
    assert plan_of("method=lora").cell.train.head_lr is None
    plan = plan_of("method=vera", "train.head_lr=null")
    assert plan.cell.train.head_lr is None and plan.cut == ("train.head_lr=null (recipe: 0.001)",)
