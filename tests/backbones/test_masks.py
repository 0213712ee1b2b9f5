"""Dropout masks from one stream: their share, their independence, and the same computation as with torch's dropout."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.backbones.first_token import FirstTokenAttention, compute_first_token_alone, head_alone
from lora2_bench.backbones.masks import MaskStream, draw_from, mask_of
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method

PLACES = [f"bert.encoder.layer.{layer}.{site}" for layer in range(3) for site in ("attention.self", "output.dropout")]
SHAPE = (16, 64, 40)
SIGMAS = 5.0


def kept(stream: MaskStream, place: str, p: float = 0.1) -> Tensor:
    """True where a mask of SHAPE keeps."""
    return mask_of(stream.words(place, SHAPE), p, torch.float32) > 0


def masks_of_steps(p: float = 0.1) -> dict[tuple[int, int, str], Tensor]:
    """(step, part, place) -> what is kept."""
    stream, found = MaskStream(7), {}
    for step, part in itertools.product((1, 2, 3), (0, 1)):
        stream.begin(step, part)
        found |= {(step, part, place): kept(stream, place, p) for place in PLACES}
    return found


@pytest.mark.parametrize("p", [0.1, 0.05, 0.5, 1 / 65536, 0.99])
def test_every_place_keeps_its_share_within_binomial_bounds(p: float) -> None:
    chance = 1 - round(p * 65536) / 65536
    for key, mask in masks_of_steps(p).items():
        spread = math.sqrt(chance * (1 - chance) * mask.numel())
        assert abs(mask.sum().item() - chance * mask.numel()) < SIGMAS * spread + 1, key


def test_rows_and_columns_keep_their_share_too() -> None:
    for mask in masks_of_steps().values():
        for axis in range(3):
            sums = mask.double().sum(dim=[other for other in range(3) if other != axis])
            count = mask.numel() / mask.shape[axis]
            chance = 1 - 6554 / 65536
            statistic = ((sums - chance * count) ** 2 / (count * chance * (1 - chance))).sum().item()
            assert 1e-6 < stats.chi2.sf(statistic, len(sums)) < 1 - 1e-6


def test_masks_of_two_steps_parts_or_places_agree_as_often_as_by_chance() -> None:
    masks = {key: mask.flatten().numpy() for key, mask in masks_of_steps().items()}
    for one, other in itertools.combinations(masks, 2):
        correlation = np.corrcoef(masks[one], masks[other])[0, 1]
        assert abs(correlation) < SIGMAS / math.sqrt(math.prod(SHAPE)), (one, other)


def test_elements_of_one_mask_are_independent_at_any_distance() -> None:
    mask = masks_of_steps()[1, 0, PLACES[0]].flatten().double().numpy()
    for lag in (1, 2, 3, 4, 5, 8, 16, SHAPE[2], SHAPE[1] * SHAPE[2]):
        assert abs(np.corrcoef(mask[:-lag], mask[lag:])[0, 1]) < SIGMAS / math.sqrt(len(mask)), lag


def test_words_are_uniform() -> None:
    words = MaskStream(3).words("a", (256, 4096)).numpy().view(np.uint16)
    for part in (words >> 8, words & 255):
        assert 1e-6 < stats.chisquare(np.bincount(part.ravel(), minlength=256)).pvalue < 1 - 1e-6


def test_a_mask_is_a_function_of_seed_step_part_place_and_call_alone() -> None:
    one, other = MaskStream(1), MaskStream(1)
    one.begin(4, 1)
    first, second = one.words("a", (5, 7)), one.words("a", (5, 7))
    other.begin(9, 0)
    other.words("a", (2, 2))
    other.begin(4, 1)
    other.words("b", (3, 3))
    torch.rand(3)
    assert torch.equal(other.words("a", (5, 7)), first) and torch.equal(other.words("a", (5, 7)), second)
    assert not torch.equal(first, second)
    elsewhere = MaskStream(2)
    elsewhere.begin(4, 1)
    assert not torch.equal(elsewhere.words("a", (5, 7)), first)
    assert copy.deepcopy(one) is one


def test_the_bits_never_change() -> None:
    stream = MaskStream(5)
    stream.begin(2, 1)
    assert stream.words("bert.embeddings.dropout", (2, 3)).tolist() == [[175, 9046, 30958], [-21314, 17555, 491]]


def test_the_mask_is_scaled_by_the_share_that_is_kept() -> None:
    words = torch.arange(-(2**15), 2**15).to(torch.int16)
    for p, dtype in ((0.1, torch.float64), (0.5, torch.float32), (0.25, torch.bfloat16)):
        mask = mask_of(words, p, dtype)
        assert mask.double().mean().item() == pytest.approx(1, abs=1e-2 if dtype == torch.bfloat16 else 1e-6)
        assert (mask == 0).sum().item() == round(p * 65536)
    assert not mask_of(words, 1.0, torch.float32).any() and (mask_of(words, 0.0, torch.float32) == 1).all()


def padded_batch() -> dict[str, Tensor]:
    batch = make_batch(rows=5)
    batch["attention_mask"][0, -3:] = 0
    return batch


def drawing(architecture: str, first_token: bool = False) -> Backbone:
    """A backbone in float64 that draws from a stream, p high enough to matter."""
    backbone = make_backbone(architecture, dtype=torch.float64)
    stream = MaskStream(11)
    draw_from(stream, backbone.model)
    for module in backbone.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    if first_token:
        compute_first_token_alone(backbone.model)
    backbone.model.train()
    return backbone


class Slow:
    """The equations, with the masks of a stream of its own: what torch's functions are replaced by."""

    def __init__(self) -> None:
        self.stream = MaskStream(11)

    def drop(self, module: Any, x: Tensor, p: float) -> Tensor:
        words = self.stream.words(module.place, tuple(x.shape)).double()
        return torch.where(words + 32768 < round(0.3 * 65536), 0.0, x / (1 - round(0.3 * 65536) / 65536))

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, **how: Any
    ) -> tuple[Tensor, None]:
        scores = torch.einsum("nhqd,nhkd->nhqk", query, key) * how["scaling"]
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = self.drop(module, scores.softmax(-1), dropout)
        return torch.einsum("nhqk,nhkd->nqhd", weights, value), None


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "modernbert"])
def test_outputs_and_gradients_are_those_of_the_equations(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from lora2_bench.backbones import masks

    found = []
    for is_slow in (False, True):
        method = make_method("full", drawing(architecture))
        with monkeypatch.context() as patch:
            if is_slow:
                slow = Slow()
                name = method.backbone.model.config._attn_implementation
                if architecture != "deberta-v2":
                    patch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, name, slow.attend)
                patch.setattr(masks.StreamDropout, "forward", lambda self, x, slow=slow: slow.drop(self, x, self.p))
            loss = loss_of_batch(method, padded_batch())
            loss.backward()
        found.append([loss, *(p.grad for p in method.backbone.model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_the_last_layer_for_the_first_token_alone_gives_the_same_numbers(architecture: str) -> None:
    found = []
    for first_token in (False, True):
        backbone = drawing(architecture, first_token)
        method = make_method("full", backbone)
        last = [module for module in backbone.model.modules() if isinstance(module, FirstTokenAttention)]
        assert len(last) == first_token
        hidden = backbone.model.base_model(**{k: v for k, v in padded_batch().items() if k != "labels"})[0]
        assert hidden.shape[1] == (1 if first_token else padded_batch()["input_ids"].shape[1])
        backbone.model.get_submodule(method_dropouts(backbone)[0]).stream.begin(0, 0)  # type: ignore[operator, union-attr]
        loss = loss_of_batch(method, padded_batch())
        loss.backward()
        backbone.model.eval()
        with torch.no_grad():
            scored = backbone.model(**padded_batch()).logits
        found.append([loss, scored, *(p.grad for p in backbone.model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) and torch.equal(found[0][1], found[1][1])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("draws", [True, False])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_where_the_head_alone_reads_scoring_computes_the_first_token_alone(architecture: str, draws: bool) -> None:
    backbone = drawing(architecture) if draws else make_backbone(architecture, dtype=torch.float64)
    model, batch = backbone.model.eval(), padded_batch()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        whole = model(**inputs).logits
        compute_first_token_alone(model)
        with head_alone(model):
            scored, hidden = model(**inputs).logits, model.base_model(**inputs)[0]
        after = model.base_model(**inputs)[0]
    torch.testing.assert_close(scored, whole, rtol=1e-10, atol=1e-12)
    assert hidden.shape[1] == 1 and after.shape[1] == inputs["input_ids"].shape[1]
    torch.testing.assert_close(hidden[:, 0], after[:, 0], rtol=1e-10, atol=1e-12)


def test_without_a_stream_training_computes_all_tokens_and_draws_as_it_did() -> None:
    losses = []
    for changed in (False, True):
        backbone = make_backbone("bert")
        if changed:
            compute_first_token_alone(backbone.model)
        method = make_method("full", backbone)
        backbone.model.train()
        torch.manual_seed(3)
        losses.append(loss_of_batch(method, padded_batch()))
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", ["lora", "lora2", "adalora", "sora", "dylora", "vera", "bitfit", "head", "dora"])
def test_a_methods_own_layers_go_with_the_first_token_alone(name: str) -> None:
    found = []
    for first_token in (False, True):
        method = make_method(name, drawing("bert"))
        if first_token:
            compute_first_token_alone(method.backbone.model)
        last = [module for module in method.backbone.model.modules() if isinstance(module, FirstTokenAttention)]
        assert len(last) == first_token and all(module.after for module in last)
        loss = loss_of_batch(method, padded_batch())
        loss.backward()
        found.append([loss, *(p.grad for p in method.trainable().values() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 1
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_with_a_dropout_of_the_methods_own_training_computes_all_tokens_and_scoring_the_first() -> None:
    method = make_method("lora", drawing("bert"), dropout=0.1)
    compute_first_token_alone(method.backbone.model)
    (last,) = (module for module in method.backbone.model.modules() if isinstance(module, FirstTokenAttention))
    inputs = {name: value for name, value in padded_batch().items() if name != "labels"}
    encoder = method.backbone.model.base_model
    assert not last.after and encoder(**inputs)[0].shape[1] > 1
    with head_alone(method.backbone.model.eval()):
        assert encoder(**inputs)[0].shape[1] == 1


def method_dropouts(backbone: Backbone) -> list[str]:
    return [name for name, module in backbone.model.named_modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize(("architecture", "name"), [("bert", "prefix"), ("bert", "longlora"), ("deberta-v2", "lora")])
def test_a_layer_that_a_method_has_changed_or_that_is_of_another_kind_is_left_whole(
    architecture: str, name: str
) -> None:
    method = make_method(name, drawing(architecture))
    compute_first_token_alone(method.backbone.model)
    assert not any(isinstance(module, FirstTokenAttention) for module in method.backbone.model.modules())


def test_bf16_keeps_its_types_and_draws_the_same_masks() -> None:
    losses = []
    for autocast in (False, True):
        backbone = make_backbone("bert")
        draw_from(MaskStream(1), backbone.model)
        method = make_method("lora", backbone)
        backbone.model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = loss_of_batch(method, padded_batch())
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=2e-2) and losses[0] != losses[1]
