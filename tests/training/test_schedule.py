"""The schedule of the learning rate against transformers' own, number for number."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from lora2_bench.training.schedule import make_schedule


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_every_rate_is_that_of_transformers(name: str, warmup: int) -> None:
    total, optimizers = 23, [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4) for _ in range(2)]
    theirs_name = "constant_with_warmup" if name == "constant" else name
    ours = make_schedule(name, optimizers[0], warmup, total)
    theirs = get_scheduler(theirs_name, optimizers[1], warmup, total)
    for _ in range(total + 2):  # beyond the end too
        assert ours.get_last_lr() == theirs.get_last_lr()
        for optimizer, schedule in zip(optimizers, (ours, theirs), strict=True):
            optimizer.step()
            schedule.step()


def test_a_checkpoint_of_the_schedule_restores_it() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule("linear", optimizer, 2, 10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    other = make_schedule("linear", optimizer, 2, 10)
    other.load_state_dict(schedule.state_dict())
    assert other.get_last_lr() == schedule.get_last_lr() == [5 / 8]
