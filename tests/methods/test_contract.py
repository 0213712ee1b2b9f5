"""What every method promises, on every architecture."""

from __future__ import annotations

import pytest
import torch

from lora2_bench.errors import UserError
from lora2_bench.methods.base import Method, load_method
from lora2_bench.train import load_trained_state, trained_state
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import CLASSES, loss_of_batch, make_backbone, make_batch, make_method

METHODS = tuple(CLASSES)
ADAPTERS = tuple(name for name in METHODS if name != "full")


def logits_of(method_or_model: torch.nn.Module) -> torch.Tensor:
    batch = {name: value for name, value in make_batch().items() if name != "labels"}
    with torch.no_grad():
        return method_or_model(**batch).logits


def train_steps(method: Method, steps: int, lr: float = 1e-2) -> None:
    """A plain loop: the protocol's calls in the order of the real one."""
    optimizer = torch.optim.AdamW(method.param_groups(0.01), lr=lr)
    for step in range(1, steps + 1):
        loss = loss_of_batch(method, make_batch())
        penalty = method.penalty()
        (loss if penalty is None else loss + penalty).backward()
        method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        optimizer.zero_grad()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", METHODS)
def test_it_starts_as_the_backbone(name: str, architecture: str) -> None:
    backbone = make_backbone(architecture)
    before = logits_of(backbone.model)
    make_method(name, backbone)
    torch.testing.assert_close(logits_of(backbone.model), before, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ADAPTERS)
def test_only_adapters_and_head_move(name: str, architecture: str) -> None:
    backbone = make_backbone(architecture)
    frozen = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    heads = set(backbone.head_parameters())
    assert heads
    method = make_method(name, backbone)
    train_steps(method, 6)
    moved = set()
    for key, value in backbone.model.state_dict().items():
        origin = key.replace(".base.", ".")
        if origin in frozen and not torch.equal(value, frozen[origin]):
            moved.add(origin)
    assert moved == heads


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_declared_trainable_trains(name: str, architecture: str) -> None:
    method = make_method(name, make_backbone(architecture))
    before = trained_state(method)
    train_steps(method, 6)
    after = trained_state(method)
    still = {key for key in before if torch.equal(before[key], after[key])}
    # Unused by these architectures: positions beyond the batch and the padding row are parts of larger tensors.
    assert still <= {key for key in before if "embeddings" in key}


@pytest.mark.parametrize("name", METHODS)
def test_counts_equal_the_formula(name: str) -> None:
    backbone = make_backbone("bert")
    encoder = sum(p.numel() for key, p in backbone.model.named_parameters() if key not in backbone.head_parameters())
    head = (24 * 24 + 24) + (24 * 2 + 2)
    shapes = [(24, 24)] * 4 + [(24, 40), (40, 24)]
    per_layer = {
        "full": encoder / 2,
        "lora": sum(3 * (i + o) for i, o in shapes),
        "lora2": sum(2 * (i + o) + 2 * 2 * 3 + 3 for i, o in shapes),
    }
    counts = make_method(name, backbone).parameters()
    assert counts == {"adapter": 2 * per_layer[name], "head": head, "active": 2 * per_layer[name]}


def test_pruned_ranks_leave_the_active_count() -> None:
    method = make_method("lora2", make_backbone("bert"), budget__target_r=1)
    train_steps(method, 20)
    kept = [rank for row in method.summary()["ranks"].values() for rank in row.values()]
    assert sum(kept) == 12
    shapes = ([(24, 24)] * 4 + [(24, 40), (40, 24)]) * 2
    expected = sum(rank * 5 + (2 * (i + o) if rank else 0) for rank, (i, o) in zip(kept, shapes, strict=True))
    assert method.parameters()["active"] == expected < method.parameters()["adapter"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", METHODS)
def test_a_saved_state_gives_the_same_logits(name: str, architecture: str) -> None:
    method = make_method(name, make_backbone(architecture))
    train_steps(method, 3)
    other = make_method(name, make_backbone(architecture))
    load_trained_state(other, trained_state(method))
    assert torch.equal(logits_of(method.backbone.model), logits_of(other.backbone.model))
    assert not torch.equal(logits_of(make_backbone(architecture).model), logits_of(other.backbone.model))


@pytest.mark.parametrize("name", METHODS)
def test_bf16_trains_to_finite_numbers(name: str) -> None:
    method = make_method(name, make_backbone("roberta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train_steps(method, 3)
    assert torch.isfinite(logits_of(method.backbone.model)).all()


@pytest.mark.parametrize("targets", [["q"], ["o", "f2"], ["q", "v"]])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_targets_choose_exactly_the_maps_they_name(architecture: str, targets: list[str]) -> None:
    method = make_method("lora", make_backbone(architecture), targets=targets)
    assert {short for _, short in method.layers} == set(targets)  # type: ignore[attr-defined]
    assert len(method.layers) == 2 * len(targets)  # type: ignore[attr-defined]
    # The feed-forward's output.dense is not the attention's: their inputs differ in width.
    widths = {target: 40 if target == "f2" else 24 for target in targets}
    assert all(layer.base.in_features == widths[short] for (_, short), layer in method.layers.items())  # type: ignore[attr-defined]


def test_one_row_is_a_batch() -> None:
    method = make_method("lora2", make_backbone("deberta-v2"))
    loss_of_batch(method, make_batch(rows=1)).backward()


def test_a_model_without_the_named_target_is_refused() -> None:
    from transformers import DistilBertConfig

    from lora2_bench.backbone import random_backbone

    config = DistilBertConfig(vocab_size=50, dim=8, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=16)
    with pytest.raises(UserError, match="of type distilbert: adapters fit bert, roberta, deberta-v2"):
        make_method("lora", random_backbone(config))


@pytest.mark.parametrize("target", ["lora2_bench.methods.nothing.X", "lora2_bench.cell.Cell", "nodots"])
def test_a_class_that_is_no_method_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=r"^method._target_="):
        load_method(target)
