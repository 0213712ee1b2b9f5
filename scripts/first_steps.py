"""What LoRA²'s factors do while a cell trains: `python scripts/first_steps.py OVERRIDES`, as for python -m lora2_bench.

Prints, at a few steps and over all adapted maps: the median |∇E| and the share of them under Adam's epsilon, the mean
|E| of the ranks that are not pruned, and the mean norms of the rows of A and C. Nothing is stored.
"""

from __future__ import annotations

import torch

from lora2_bench.config.launch import launch
from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.lora2 import LoRA2
from lora2_bench.runner.setup import set_up
from lora2_bench.training.loop import train

SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def watch(plan: Plan) -> None:
    """Train the plan's cell and print as it goes."""
    cell, place = plan.cell, plan.run_options
    setup = set_up(plan)
    method = setup.method
    if not isinstance(method, LoRA2):
        raise UserError(f"method={cell.method['name']} has no E: give method=lora2")
    after_step = method.after_step
    layers = list(method.layers.values())
    print(f"{'step':>5} {'|grad E|':>9} {'under eps':>9} {'|E|':>9} {'norm of A':>9} {'norm of C':>9}")

    def watched(step: int) -> None:
        if step in SHOWN:
            (E,) = method.stacks["E"]
            gradients, values = E.grad().abs(), E.value().abs()[method.budget.masks]
            a, c = (torch.cat([getattr(layer, name).norm(dim=1) for layer in layers]) for name in "AC")
            under = (gradients < cell.train.adam_eps).float().mean()
            numbers = f"{values.mean():9.1e} {a.mean():9.3f} {c.mean():9.3f}"
            print(f"{step:5d} {gradients.median():9.1e} {under:9.0%} {numbers}", flush=True)
        after_step(step)

    method.after_step = watched  # type: ignore[method-assign]
    train(
        cell,
        method,
        setup.train,
        setup.selection,
        setup.accelerator,
        eval_batch_size=place.eval_batch_size,
        on_evaluation=lambda evaluation: print(f"{evaluation.step:5d} score {evaluation.score:.4f}", flush=True),
    )


if __name__ == "__main__":
    launch(watch)
