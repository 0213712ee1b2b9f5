"""The properties that every method has, each a function of a method and of an encoder's type."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from lora2_bench.backbones.load import copy_trained_parameters
from lora2_bench.contract.subject import (
    Subject,
    logits_of,
    loss_of_batch,
    make_backbone,
    make_batch,
    train_steps,
)
from lora2_bench.errors import UserError
from lora2_bench.methods.base import Method
from lora2_bench.methods.lowrank.method import RankedMethod
from lora2_bench.methods.peft_tuner import PeftTuner
from lora2_bench.runner.export import export_adapter
from lora2_bench.training.state import load_trained_state, trained_state


class Broken(AssertionError):
    """A property that does not hold, in one line."""


def hold(condition: bool, reason: str) -> None:
    """Raise Broken, with the reason, unless the condition is true."""
    if not condition:
        raise Broken(reason)


def _same(one: torch.Tensor, other: torch.Tensor, reason: str, relative: float = 0.0, absolute: float = 0.0) -> None:
    gap = (one - other).abs()
    worst = f"{reason} (largest difference {gap.max().item():.2g})"
    hold(torch.allclose(one, other, rtol=relative, atol=absolute), worst)


def starts_as_it_says(subject: Subject, architecture: str) -> None:
    """The untrained method gives the backbone's logits, where `starts_as_backbone` says so, else others."""
    backbone = make_backbone(architecture)
    before = logits_of(backbone.model)
    method = subject.make(backbone)
    after = logits_of(backbone.model)
    if subject.kind.starts_as_backbone:
        rounding = 1e-6 if isinstance(method, PeftTuner) else 0.0  # some of PEFT's take W0 apart and together again
        _same(after, before, "the untrained method changes the logits, and starts_as_backbone is True", 0, rounding)
    else:
        hold(not torch.equal(after, before), "the logits are the backbone's, and starts_as_backbone is False")


def declared_alone_trains(subject: Subject, architecture: str) -> Method:
    """Six steps move all that `trainable` declares and nothing else."""
    backbone = make_backbone(architecture)
    heads = set(backbone.head_parameters())
    method = subject.make(backbone)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    declared = set(method.trainable())
    hold(bool(heads) and heads <= declared, f"the head does not train: {', '.join(sorted(heads - declared))}")
    train_steps(method, 6)
    after = backbone.model.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    first_name = {id(p): key for key, p in backbone.model.named_parameters()}  # shared ones have several
    names = {key: first_name[id(p)] for key, p in backbone.model.named_parameters(remove_duplicate=False)}
    moved = {names.get(key, key) for key in changed}
    hold(moved <= declared, f"moves, and is not declared trainable: {', '.join(sorted(moved - declared)[:3])}")
    # Embedding tables: the batch has neither every token nor every position.
    still = {key for key in declared - moved if "embeddings" not in key}
    hold(not still, f"is declared trainable, and does not move: {', '.join(sorted(still)[:3])}")
    return method


def counts_add_up(subject: Subject, architecture: str) -> Method:
    """`parameters` counts what trains, head apart."""
    backbone = make_backbone(architecture)
    heads = backbone.head_parameters()
    method = subject.make(backbone)
    counts = method.parameters()
    trained = sum(p.numel() for key, p in method.trainable().items() if key not in heads)
    hold(counts["head"] == sum(p.numel() for p in heads.values()), f"head={counts['head']} is not the head's size")
    hold(counts["adapter"] == trained, f"adapter={counts['adapter']}, and {trained} parameters train")
    hold(0 <= counts["active"] <= trained, f"active={counts['active']} is not between 0 and {trained}")
    return method


def penalty_is_of_training_alone(subject: Subject, architecture: str) -> None:
    """A penalty is a positive scalar without a gradient for the head, and no part of an evaluation."""
    method = subject.make(make_backbone(architecture))
    before = logits_of(method.backbone.model)
    penalty = method.penalty()
    if penalty is not None:
        hold(penalty.ndim == 0, f"the penalty has the shape {tuple(penalty.shape)}, and is no scalar")
        hold(penalty.item() > 0, f"the penalty is {penalty.item():.3g}, and not positive")
        penalty.backward()  # type: ignore[no-untyped-call]
        heads = set(method.backbone.head_parameters())
        hold(all(p.grad is None for key, p in method.trainable().items() if key in heads), "it reaches the head")
    hold(torch.equal(logits_of(method.backbone.model), before), "the penalty changes the logits")


def saved_state_is_whole(subject: Subject, architecture: str) -> None:
    """What `saved` has gives the same logits in a method drawn from another seed."""
    method = subject.make(make_backbone(architecture))
    train_steps(method, 3)
    other = subject.make(make_backbone(architecture), seed=2)
    load_trained_state(other, trained_state(method))
    trained, again = logits_of(method.backbone.model), logits_of(other.backbone.model)
    _same(trained, again, "the saved state gives other logits in a method drawn from another seed")
    hold(not torch.equal(logits_of(make_backbone(architecture).model), again), "training changes no logit")


def checkpoint_goes_on(subject: Subject, architecture: str) -> None:
    """A run is the same numbers as its first part, a checkpoint through a file as the loop's, and the rest."""
    total = 20 if issubclass(subject.kind, RankedMethod) else 8  # ranks are given up over more steps
    whole = subject.make(make_backbone(architecture))
    optimizer = train_steps(whole, total - 5)
    kept = {"trained": trained_state(whole), "method": whole.state_dict(), "optimizer": optimizer.state_dict()}
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    train_steps(whole, 5, first=total - 4, optimizer=optimizer)
    resumed = subject.make(make_backbone(architecture), seed=2)
    state = torch.load(file, weights_only=True)
    load_trained_state(resumed, state["trained"])
    resumed.load_state_dict(state["method"])
    again = torch.optim.AdamW(resumed.optimizer_groups(0.01), lr=1e-2)
    again.load_state_dict(state["optimizer"])
    train_steps(resumed, 5, first=total - 4, optimizer=again)
    states = trained_state(whole), trained_state(resumed)
    other = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
    hold(not other, f"a resumed run ends with other values: {', '.join(other[:3])}")
    hold(whole.parameters() == resumed.parameters(), "a resumed run ends with other counts")
    hold(whole.summary() == resumed.summary(), "a resumed run ends with another summary")


def export_loads_in_peft(subject: Subject, architecture: str, steps: int = 2, folder: Path | None = None) -> Method:
    """The exported adapter gives the same logits in PEFT, where `exports` promises one; `folder` then keeps it."""
    from peft import PeftModel

    method = subject.make(make_backbone(architecture))
    train_steps(method, steps)
    hold((method.peft_adapter() is not None) == (method.exports == "peft"), f"peft_adapter, and {method.exports=}")
    if method.exports in ("weights", "none"):
        hold(method.lora_factors() is None, f"it has LoRA factors, and exports is {method.exports}")
        return method
    with tempfile.TemporaryDirectory() as passing:
        adapter = (folder or Path(passing)) / "adapter"
        export_adapter(adapter, method)
        other = make_backbone(architecture)
        for parameter in other.head_parameters().values():  # another head, replaced by the adapter's
            nn.init.ones_(parameter)
        base: nn.Module = other.model
        base.load_state_dict(method.replaced_weights(), strict=False)
        loaded = PeftModel.from_pretrained(base, str(adapter))
    _same(logits_of(loaded), logits_of(method.backbone.model), "the export gives other logits in PEFT", 1e-5, 1e-5)
    return method


def merges_as_it_says(subject: Subject, architecture: str) -> Method:
    """Merged maps give the same logits, where `merges` promises it; another method refuses in one line."""
    method = subject.make(make_backbone(architecture))
    train_steps(method, 3)
    before = logits_of(method.backbone.model)
    try:
        method.merge()
    except UserError as error:
        hold(not method.merges, f"merges is True, and merge refuses: {error}")
        return method
    hold(method.merges, "merge does something, and merges is False")
    _same(logits_of(method.backbone.model), before, "merged maps give other logits", 1e-5, 1e-5)
    return method


def shares_its_backbone(subject: Subject, architecture: str) -> None:
    """No training and no merge changes another backbone of the process: they share the tensors that do not train."""
    backbone = make_backbone(architecture)
    original = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    shared = make_backbone(architecture)
    for key, parameter in shared.model.named_parameters():
        parameter.data = backbone.model.get_parameter(key).data
    method = subject.make(shared)
    copy_trained_parameters(shared)
    train_steps(method, 2)
    if method.merges:
        method.merge()
    other = [key for key, value in backbone.model.state_dict().items() if not torch.equal(value, original[key])]
    hold(not other, f"changes another backbone of the process: {', '.join(other[:3])}")


def parts_sum_up(subject: Subject, architecture: str) -> None:
    """The gradients of a batch in three parts are those of the whole."""
    by_peft = issubclass(subject.kind, PeftTuner)  # which takes singular values and Fourier transforms in float32
    method = subject.make(make_backbone(architecture, dtype=torch.float32 if by_peft else torch.float64))
    optimizer = train_steps(method, 2)
    batch = make_batch(rows=6)
    loss_of_batch(method, batch).backward()  # type: ignore[no-untyped-call]
    whole = {key: p.grad.clone() for key, p in method.trainable().items() if p.grad is not None}
    method.zero_grad(optimizer)
    for part in range(3):
        rows = {key: value[2 * part : 2 * part + 2] for key, value in batch.items()}
        (loss_of_batch(method, rows) / 3).backward()  # type: ignore[no-untyped-call]
    relative, absolute = (1e-3, 1e-6) if by_peft else (1e-9, 1e-12)
    for key, p in method.trainable().items():
        if key in whole:
            assert p.grad is not None
            _same(p.grad, whole[key], f"a batch in parts has another gradient of {key}", relative, absolute)


def bf16_is_finite(subject: Subject, architecture: str) -> None:
    """Three steps in bf16 give finite logits."""
    method = subject.make(make_backbone(architecture))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train_steps(method, 3)
    hold(bool(torch.isfinite(logits_of(method.backbone.model)).all()), "three steps in bf16 end in NaN or infinity")


def one_row_is_a_batch(subject: Subject, architecture: str) -> None:
    """A batch of one row has a loss and gradients."""
    loss_of_batch(subject.make(make_backbone(architecture)), make_batch(rows=1)).backward()  # type: ignore[no-untyped-call]


PROPERTIES: tuple[Callable[[Subject, str], object], ...] = (
    starts_as_it_says,
    declared_alone_trains,
    counts_add_up,
    penalty_is_of_training_alone,
    saved_state_is_whole,
    checkpoint_goes_on,
    export_loads_in_peft,
    merges_as_it_says,
    shares_its_backbone,
    parts_sum_up,
    bf16_is_finite,
    one_row_is_a_batch,
)
