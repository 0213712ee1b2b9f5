"""Prefix tuning, P-Tuning v2, prompt tuning and P-tuning against their equations and against PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone, random_backbone
from lora2_bench.errors import UserError
from lora2_bench.methods.base import Method
from lora2_bench.methods.prompts.attention import PrefixedLayer
from lora2_bench.runner.export import save_tensors
from lora2_bench.runner.setup import load_adapter
from lora2_bench.training.state import trained_state
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import (
    loss_of_batch,
    make_backbone,
    make_batch,
    make_method,
    method_class,
    options_of,
    train_steps,
)
from tests.methods.slow_encoder import Pair, slow_logits

PREFIXES = ("prefix", "ptuning_v2")
PROMPTS = (*PREFIXES, "prompt", "p_tuning")
LENGTH, WIDTH, LAYERS = 4, 24, 2


def make_peaked(architecture: str, **settings: Any) -> Backbone:
    """A tiny backbone with weights so large that attention is far from uniform, and every input counts."""
    backbone = make_backbone(architecture, **settings)
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if parameter.ndim == 2 and "embeddings" not in name:
                parameter.mul_(15.0)
    return backbone


def without_dropout(backbone: Backbone) -> Backbone:
    """The backbone in training mode, drawing nothing."""
    for module in backbone.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    backbone.model.train()
    return backbone


def trained_prompt(method: Method) -> Tensor:
    """What the method's `prompt_encoder` gives now."""
    prompt: Tensor = method.backbone.model.get_submodule("prompt_encoder")()
    return prompt.detach()


def by_layer(prefix: Tensor) -> list[Pair]:
    """(length, 2 · layers · width) as (keys, values) of each layer, (length, width) each."""
    keys_and_values = prefix.view(LENGTH, 2 * LAYERS, WIDTH).unbind(1)
    return list(zip(keys_and_values[::2], keys_and_values[1::2], strict=True))


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor], **more: Tensor) -> Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    found: Tensor = model(**inputs, **more).logits
    return found


@pytest.mark.parametrize(
    ("architecture", "attention"),  # transformers has no SDPA for DeBERTa-v2
    [("bert", "eager"), ("bert", "sdpa"), ("roberta", "eager"), ("roberta", "sdpa"), ("deberta-v2", "eager")],
)
@pytest.mark.parametrize("name", PROMPTS)
def test_it_is_its_equation_row_by_row(name: str, architecture: str, attention: str) -> None:
    plain = make_peaked(architecture, dtype=torch.float64)
    backbone = make_peaked(architecture, dtype=torch.float64)
    backbone.model.set_attn_implementation(attention)
    method = make_method(name, backbone)
    train_steps(method, 3, lr=1e-1)
    plain.model.load_state_dict(backbone.model.state_dict(), strict=False)
    trained = trained_prompt(method)
    prompted = {"prefixes": by_layer(trained)} if name in PREFIXES else {"prompt": trained}
    batch = make_batch()  # its first row is padded
    found = logits(backbone.model, batch)
    with torch.no_grad():
        for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
            expected = slow_logits(plain, ids[mask.bool()], **prompted)  # type: ignore[arg-type]
            torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)
        without = slow_logits(plain, batch["input_ids"][1])
    assert (found[1] - without).abs().max() > 1e-2
    padding = batch["input_ids"].where(batch["attention_mask"].bool(), 7)
    assert torch.equal(logits(backbone.model, {**batch, "input_ids": padding}), found)


@pytest.mark.parametrize("mlp_width", [None, 20])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_at_peft_s_positions_it_is_peft_s_prefix_tuning(architecture: str, mlp_width: int | None) -> None:
    method = make_method("prefix", make_peaked(architecture), mlp_width=mlp_width)
    config = PrefixTuningConfig(
        task_type="SEQ_CLS",
        num_virtual_tokens=LENGTH,
        prefix_projection=mlp_width is not None,
        encoder_hidden_size=mlp_width,
    )
    theirs: Any = get_peft_model(make_peaked(architecture).model, config).eval()
    ours, encoder = method.backbone.model.get_submodule("prompt_encoder"), theirs.prompt_encoder["default"]
    names = {"embedding": "embedding.weight"}
    if mlp_width is not None:
        names |= {
            f"{one}.{kind}": f"transform.{n}.{kind}"
            for one, n in (("down", 0), ("up", 2))
            for kind in ("weight", "bias")
        }
    encoder.load_state_dict({names[name]: value for name, value in ours.state_dict().items()})
    batch = make_batch()
    ids = batch["input_ids"]
    shift = LENGTH + (2 if architecture == "roberta" else 0)  # RoBERTa counts from the padding id on
    positions = (torch.arange(ids.shape[1]) + shift).expand_as(ids)
    expected = logits(theirs, batch, token_type_ids=torch.zeros_like(ids))
    found = logits(method.backbone.model, batch, position_ids=positions, token_type_ids=torch.zeros_like(ids))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(method.backbone.model, batch), expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", PROMPTS)
def test_the_frozen_backbone_is_bit_for_bit_the_one_it_was(name: str, architecture: str) -> None:
    untouched = make_peaked(architecture)
    method = make_method(name, make_peaked(architecture))
    train_steps(method, 4)
    state = method.backbone.model.state_dict()
    heads = dict(untouched.head_parameters())
    other = make_peaked(architecture)
    left = other.model.load_state_dict({key: value for key, value in state.items() if key not in heads}, strict=False)
    assert set(left.missing_keys) == set(heads) and all(
        key.startswith("prompt_encoder.") for key in left.unexpected_keys
    )
    assert torch.equal(logits(other.model, make_batch()), logits(untouched.model, make_batch()))
    assert all(key in heads or key.startswith("prompt_encoder.") for key in method.trainable())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", PROMPTS)
def test_gradient_checkpointing_keeps_logits_and_gradients(name: str, architecture: str, reentrant: bool) -> None:
    gradients: list[dict[str, Tensor]] = []
    for checkpointing in (False, True):
        method = make_method(name, without_dropout(make_peaked(architecture)))
        model: Any = method.backbone.model
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        calls: list[None] = []
        model.prompt_encoder.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        loss_of_batch(method, make_batch()).backward()
        assert len(calls) == 1  # the network that makes the prompt runs once, in the second pass of the layers too
        gradients.append({key: p.grad for key, p in method.trainable().items() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1]) and any(key.startswith("prompt_encoder.") for key in gradients[0])
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", PROMPTS)
def test_another_cell_starts_from_the_trained_prompt_and_keeps_its_own_head(name: str, tmp_path: Path) -> None:
    method, other = (make_method(name, make_peaked("roberta")) for _ in range(2))
    train_steps(method, 3)
    save_tensors(trained_state(method), tmp_path / "weights.safetensors")
    heads = {key: value.detach().clone() for key, value in other.backbone.head_parameters().items()}
    assert not torch.equal(trained_prompt(other), trained_prompt(method))
    load_adapter(other, tmp_path / "weights.safetensors", "a cell")
    assert torch.equal(trained_prompt(other), trained_prompt(method))
    assert all(torch.equal(value, heads[key]) for key, value in other.backbone.head_parameters().items())
    longer = make_method(name, make_peaked("roberta"), length=LENGTH + 1)
    with pytest.raises(UserError, match="give the size and targets that it was trained with"):
        load_adapter(longer, tmp_path / "weights.safetensors", "a cell")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "bound"), [("prefix", 0.1), ("ptuning_v2", 0.3), ("prompt", 0.45), ("p_tuning", 0.4)])
def test_the_prompt_alone_learns_random_labels(name: str, bound: float, architecture: str) -> None:
    method = make_method(name, make_peaked(architecture))
    batch = make_batch(rows=16)
    prompt = [p for key, p in method.trainable().items() if key.startswith("prompt_encoder.")]
    optimizer = torch.optim.AdamW(prompt, lr=3e-2)
    assert loss_of_batch(method, batch).item() > 0.6
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_of_batch(method, batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < bound


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_counts_are_those_of_the_formulas(architecture: str) -> None:
    def counts(name: str, **changes: Any) -> tuple[int, int]:
        found = make_method(name, make_peaked(architecture), **changes).parameters()
        return found["adapter"], found["active"]

    prefix, prompt, m = 2 * LAYERS * LENGTH * WIDTH, LENGTH * WIDTH, 20
    assert counts("ptuning_v2") == (prefix, prefix)
    mlp = LENGTH * WIDTH + (WIDTH + 1) * m + (m + 1) * 2 * LAYERS * WIDTH
    assert counts("prefix", mlp_width=m) == (mlp, prefix)
    assert counts("prefix", mlp_width=None) == (prefix, prefix)
    assert counts("prompt") == (prompt, prompt)
    perceptron = (WIDTH + 1) * m + (m + 1) * m + (m + 1) * WIDTH
    assert counts("p_tuning", encoder="mlp", encoder_width=m) == (prompt + perceptron, prompt)
    lstm = 2 * 4 * m * (WIDTH + m + 2) + 2 * 4 * m * (2 * m + m + 2)
    head = (2 * m + 1) * 2 * m + (2 * m + 1) * WIDTH
    assert counts("p_tuning", encoder="lstm", encoder_width=m) == (prompt + lstm + head, prompt)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_prefix_s_dropout_is_drawn_for_each_row_and_in_training_alone(architecture: str) -> None:
    method = make_method("ptuning_v2", without_dropout(make_peaked(architecture)), dropout=0.5)
    model = method.backbone.model
    ids = make_batch(rows=1)["input_ids"].expand(2, -1)
    twice = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    first, second = logits(model, twice)
    assert not torch.allclose(first, second, atol=1e-4)
    model.eval()
    first, second = logits(model, twice)
    torch.testing.assert_close(first, second)
    none = make_method("ptuning_v2", make_peaked(architecture), dropout=0.0)
    torch.testing.assert_close(first, logits(none.backbone.model, twice)[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_starts_as_embedded_tokens_of_any_number(architecture: str) -> None:
    backbone = make_peaked(architecture)
    backbone.model.train()
    method = make_method("prompt", backbone, length=100)  # longer than the 80 positions
    prompt = trained_prompt(method)
    with torch.no_grad():
        known = backbone.model.eval().base_model.get_submodule("embeddings")(input_ids=torch.arange(400)[:, None])
    distances = (prompt[:, None] - known.squeeze(1)).norm(dim=-1)
    assert prompt.shape == (100, WIDTH) and distances.min(1).values.max() < 1e-4
    assert len(prompt.unique(dim=0)) > 50
    uniform = trained_prompt(make_method("prompt", make_peaked(architecture), init="uniform"))
    assert uniform.abs().max() <= 0.5 and uniform.std() > 0.2


def test_with_a_prompt_the_head_reads_the_first_token_and_not_the_prompt() -> None:
    method = make_method("prompt", make_backbone("bert"))
    seen: list[Tensor] = []
    pooler = method.backbone.model.get_submodule("bert.pooler")
    pooler.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
    batch = make_batch()
    logits(method.backbone.model, batch)
    assert seen[0].shape == (*batch["input_ids"].shape, WIDTH)


@pytest.mark.parametrize("name", PROMPTS)
def test_an_unknown_encoder_is_refused_before_it_is_touched(name: str) -> None:
    from transformers import DistilBertConfig

    config = DistilBertConfig(vocab_size=50, dim=8, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=16)
    backbone = random_backbone(config)
    with pytest.raises(UserError, match="of type distilbert: adapters fit bert, roberta, deberta-v2"):
        make_method(name, backbone)
    assert all(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize(
    ("name", "option", "value", "allowed"),
    [
        *((name, "length", value, "an integer of at least 1") for name in PROMPTS for value in (0, 2.5, True, None)),
        ("prefix", "mlp_width", 0, "an integer of at least 1, or null for no MLP"),
        ("prefix", "dropout", 1.0, "a number from 0 to 0.99"),
        ("ptuning_v2", "init_std", 0, "a number above 0"),
        ("prompt", "init", "words", "one of vocabulary, uniform"),
        ("p_tuning", "encoder", "gru", "one of lstm, mlp"),
        ("p_tuning", "encoder_width", "wide", "an integer of at least 1"),
        ("p_tuning", "dropout", -0.1, "a number from 0 to 0.99"),
    ],
)
def test_impossible_options_are_one_line(name: str, option: str, value: object, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"^method\.{option}=.* must be {allowed}$"):
        method_class(name).parse({**options_of(name), option: value})


def test_dropout_between_the_layers_of_an_mlp_is_refused() -> None:
    with pytest.raises(UserError, match=r"^method\.dropout=0\.1 is not possible: .* must be 0 with encoder=mlp$"):
        method_class("p_tuning").parse({**options_of("p_tuning"), "encoder": "mlp", "dropout": 0.1})


def test_a_layer_without_its_prefix_fails_rather_than_attends_without_it() -> None:
    method = make_method("ptuning_v2", make_backbone("bert"))
    layer = method.backbone.model.get_submodule("bert.encoder.layer.0")
    assert isinstance(layer, PrefixedLayer)
    with pytest.raises(TypeError, match="missing 2 required positional arguments"):
        layer(torch.zeros(1, 3, WIDTH))
