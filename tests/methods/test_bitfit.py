"""BitFit against a slow reference: plain Adam on nothing but biases and head."""

from __future__ import annotations

import pytest
import torch

from lora2_bench.errors import UserError
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method, train_steps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_is_adam_on_biases_and_head(architecture: str) -> None:
    method = make_method("bitfit", make_backbone(architecture, dtype=torch.float64))
    reference = make_backbone(architecture, dtype=torch.float64).model
    head = ("pooler", "classifier")
    chosen = [p for name, p in reference.named_parameters() if name.endswith("bias") or any(h in name for h in head)]
    for parameter in reference.parameters():
        parameter.requires_grad_(any(parameter is one for one in chosen))
    plain = torch.optim.AdamW(chosen, lr=1e-2, weight_decay=0.0)
    ours = torch.optim.AdamW(method.param_groups(0.0), lr=1e-2)
    for step in range(1, 8):
        batch = make_batch(rows=4 + step % 3)
        loss = loss_of_batch(method, batch)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        expected = torch.nn.functional.cross_entropy(reference(**inputs).logits, batch["labels"])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
        for value, optimizer in ((loss, ours), (expected, plain)):
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
    theirs = dict(reference.named_parameters())
    for name, parameter in method.backbone.model.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-9, atol=1e-12)


def test_no_bias_is_decayed() -> None:
    method = make_method("bitfit", make_backbone("bert"))
    decayed = [p for group in method.param_groups(0.1) if group["weight_decay"] > 0 for p in group["params"]]
    assert sorted(p.shape for p in decayed) == [(2, 24), (24, 24)]  # the weights of classifier and pooler
    train_steps(method, 1)


def test_a_model_without_biases_is_refused() -> None:
    backbone = make_backbone("bert")
    heads = set(backbone.head_parameters())
    for name, _ in list(backbone.model.named_parameters()):
        if name.endswith("bias") and name not in heads:
            module, _, leaf = name.rpartition(".")
            backbone.model.get_submodule(module).register_parameter(leaf, None)
    with pytest.raises(UserError, match="model=random has no biases for method=bitfit"):
        make_method("bitfit", backbone)
