"""The only training loop. It knows no method by name and writes no file but checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from lora2_bench.errors import CellFailed, Interrupted
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.checks import in_steps
from lora2_bench.methods.base import Method
from lora2_bench.tasks.batches import BucketSampler
from lora2_bench.tasks.encoding import EncodedSplit
from lora2_bench.tasks.metrics import main_score
from lora2_bench.training.checkpoints import Checkpoints
from lora2_bench.training.evaluation import Evaluation, Logits, score
from lora2_bench.training.memory import describe, memory_for, smaller_step
from lora2_bench.training.ranks import ALONE, Crew
from lora2_bench.training.state import Progress, keep_checkpoint, restore, set_random_state, snapshot
from lora2_bench.training.step import backward, gradients_to_sum


@dataclass
class Outcome:
    """What a run gives.

    Attributes:
        evaluations: on the splits that choose the checkpoint, in order.
        best_step: step of the first highest score among them.
        best, last: logits per split at that step and at the end, (rows, outputs) in row order, float32 on the CPU.
        best_state: trained weights at the best step, on the CPU.
        steps, epochs: how far it went.
        seconds_per_step: mean wall time of a training step, evaluations left out.
        continued_from: the step of the checkpoint that this process started from, or None.
    """

    evaluations: list[Evaluation]
    best_step: int
    best: Logits
    last: Logits
    best_state: dict[str, Tensor]
    steps: int
    epochs: float
    seconds_per_step: float
    continued_from: int | None = None


def train(
    cell: Cell,
    method: Method,
    train_rows: EncodedSplit,
    eval_rows: Mapping[str, EncodedSplit],
    accelerator: Accelerator,
    *,
    eval_batch_size: int,
    on_evaluation: Callable[[Evaluation], None],
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
    crew: Crew = ALONE,
    on_step: Callable[[int, int, list[Evaluation]], None] = lambda *_: None,
) -> Outcome:
    """Train the injected `method` on `train_rows`, scoring `eval_rows` as it goes.

    With `checkpoints` it continues from the newest of them: on a CPU, with the numbers of a run that never stopped.
    The end of training is a checkpoint too: what comes after it may fail. `stop` is asked after every step, and
    `on_step` is told the step, their total and the evaluations so far. Raises CellFailed with the step and its cause
    when the loss is no finite number, OutOfMemory with what to set, and Interrupted, after a last checkpoint, where it
    was to stop. The processes of a `crew` share the rows of every batch and end alike; the main one scores and keeps
    checkpoints.
    """
    settings, spec = cell.train, cell.spec
    model: nn.Module = method.backbone.model
    total = settings.total_steps(len(train_rows))
    every = settings.eval_steps or settings.steps_per_epoch(len(train_rows))

    sampler = BucketSampler(train_rows.lengths(), settings.batch_size, cell.seed)
    loader = DataLoader(train_rows, batch_sampler=sampler, collate_fn=train_rows.collate)
    model = accelerator.prepare_model(model, evaluation_mode=True)  # not wrapped: the crew sums the gradients below
    groups = method.optimizer_groups(settings.weight_decay)
    trained: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
    betas = (settings.adam_beta1, settings.adam_beta2)
    optimizer = AdamW(groups, lr=settings.lr, betas=betas, eps=settings.adam_eps)
    scheduler = get_scheduler(settings.schedule, optimizer, in_steps(settings.warmup, total), total)
    optimizer = accelerator.prepare_optimizer(optimizer)

    progress = Progress(0, [], 0, {}, {}, {}, 0.0, 0, 0.0)
    random_state: dict[str, Any] | None = None
    continued_from: int | None = None
    if checkpoints is not None and (found := crew.by_main(checkpoints.load)) is not None:
        progress, random_state = restore(found, method, optimizer, scheduler, crew)
        continued_from = progress.step
    # Dropout draws the same numbers whatever was drawn while the model was built, and others in each process.
    torch.manual_seed(cell.seed + crew.rank * 2**32)

    label = f"{cell.task} {cell.method_label}"
    per_epoch, fix = len(sampler), smaller_step(settings)
    on_step(progress.step, total, progress.evaluations)
    mark = time.perf_counter()
    with tqdm(
        total=total, initial=progress.step, desc=label, unit="step", mininterval=0.5, disable=not crew.is_main
    ) as bar:
        while progress.step < total:
            epoch, skip = divmod(progress.step, per_epoch)
            sampler.begin(epoch, skip)
            if random_state is not None and skip == 0:
                set_random_state(random_state, accelerator)
                random_state = None
            for batch in loader:
                if random_state is not None:  # within an epoch only now: making the loader's iterator drew a number
                    set_random_state(random_state, accelerator)
                    random_state = None
                step = progress.step + 1
                size = describe(batch, settings.accumulate)
                with crew.together(), memory_for(step, size, fix):
                    model.train()
                    loss = backward(model, method, batch, settings.accumulate, accelerator, crew)
                crew.sum_([loss, *gradients_to_sum(trained, crew)])
                if not math.isfinite(loss_now := loss.item()):
                    cause = f"the training loss is {loss_now}: lower train.lr={settings.lr}, or warm up longer"
                    raise CellFailed(step, cause)
                with crew.together(), memory_for(step, size, fix):
                    if settings.max_grad_norm > 0:
                        accelerator.clip_grad_norm_(trained, settings.max_grad_norm)
                    method.after_backward(step)
                    optimizer.step()
                    scheduler.step()
                    method.after_step(step)
                    method.clear_gradients(optimizer)
                progress.step = step
                progress.loss_sum += loss_now
                progress.since_evaluation += 1
                progress.seconds += time.perf_counter() - mark
                bar.set_postfix_str(f"loss {loss_now:.3f}, {progress.scored}", refresh=False)
                bar.update()

                if step % every == 0 or step == total:
                    scoring = partial(score, model, spec, eval_rows, accelerator, eval_batch_size, step)
                    logits, metrics = crew.by_main(scoring)
                    mean_loss = progress.loss_sum / progress.since_evaluation
                    epochs = round(step / per_epoch, 4)
                    evaluation = Evaluation(step, epochs, main_score(spec, metrics), metrics, mean_loss)
                    progress.take(evaluation, logits, method)
                    on_evaluation(evaluation)
                on_step(step, total, progress.evaluations)
                stopped = step < total and crew.any(stop())
                if checkpoints is not None:
                    now = stopped or step == total or checkpoints.due(step)
                    state = partial(snapshot, progress, method, optimizer, scheduler)
                    keep_checkpoint(checkpoints, now, step, state, accelerator, crew)
                if stopped:
                    raise Interrupted(step, checkpoints.kept if checkpoints is not None else 0)
                mark = time.perf_counter()
                if step == total:
                    break
    try:
        method.finish()
    except ValueError as error:
        raise CellFailed(progress.step, str(error)) from None
    return Outcome(
        progress.evaluations,
        progress.best_step,
        progress.best,
        progress.last,
        progress.best_state,
        total,
        round(total / per_epoch, 4),
        progress.seconds / total,
        continued_from,
    )
