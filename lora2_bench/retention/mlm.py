"""Masked-LM loss on a fixed text, with the head of the pretraining on the adapted encoder."""

from __future__ import annotations

import copy
import hashlib
from importlib.resources import files

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.errors import UserError

EVERY = 7
"""One token of so many is masked at a time, so that in as many passes each token is masked once."""


def text() -> list[str]:
    """The fixed text, one sentence an entry; written for this package."""
    return (files("lora2_bench.retention") / "text.txt").read_text(encoding="utf-8").splitlines()


def text_sha256() -> str:
    """SHA-256 of the text's sentences."""
    return hashlib.sha256("\n".join(text()).encode()).hexdigest()


def original_head(base: Backbone, tensors: dict[str, Tensor]) -> nn.Module:
    """The backbone's model for masked LM as it was published, on the device of `base`.

    `tensors` are those of its weights files. Raises UserError where the files hold no such head.
    """
    config = copy.deepcopy(base.model.config)
    kind = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    with torch.device("meta"):
        wanted = kind(copy.deepcopy(config))
    prefix = f"{wanted.base_model_prefix}."
    if base.tokenizer is None or base.tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer of model={base.name} has no mask token")
    tied = set(getattr(wanted, "_tied_weights_keys", None) or ())
    lacking = [
        name
        for name, _ in wanted.named_parameters()
        if not name.startswith(prefix) and name not in tensors and name not in tied
    ]
    if lacking:
        raise UserError(f"the files of model={base.name} hold no head of masked LM ({lacking[0]} is not there)")
    state = {prefix + name: tensor for name, tensor in base.model.base_model.state_dict().items()}
    state |= {name: tensor for name, tensor in tensors.items() if name in wanted.state_dict() and name not in state}
    model: nn.Module = kind.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, trust_remote_code=False
    )
    return model.to(next(base.model.parameters()).device).eval()


def masked_loss(
    model: nn.Module, encoder: nn.Module, base: Backbone, max_length: int, batch_size: int
) -> tuple[float, int]:
    """Mean nats a masked token of `text`, and the number of tokens, with `encoder` below the head of `model`.

    Each token but the special ones is masked once, with its sentence's other tokens in sight but every `EVERY`th.
    """
    prefix = str(getattr(model, "base_model_prefix"))  # noqa: B009 - nn.Module has it untyped
    own, tokenizer = getattr(model, prefix), base.tokenizer
    assert tokenizer is not None and tokenizer.mask_token_id is not None
    total, count = 0.0, 0
    setattr(model, prefix, encoder)
    try:
        for inputs, places in _batches(base, max_length, batch_size):
            logits = model(**inputs).logits
            labels = places["labels"]
            masked = labels >= 0
            losses = nn.functional.cross_entropy(logits[masked].double(), labels[masked], reduction="sum")
            total, count = total + float(losses), count + int(masked.sum())
    finally:
        setattr(model, prefix, own)
    return total / count, count


def _batches(base: Backbone, max_length: int, batch_size: int) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Inputs of every batch, and their labels: a token's id where it is masked, else -100."""
    tokenizer = base.tokenizer
    assert tokenizer is not None
    device = next(base.model.parameters()).device
    rows, labels = [], []
    for ids in tokenizer(text(), truncation=True, max_length=max_length)["input_ids"]:
        special = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
        words = [place for place, is_special in enumerate(special) if not is_special]
        for first in range(EVERY):
            if hidden := set(words[first::EVERY]):
                rows.append([tokenizer.mask_token_id if at in hidden else token for at, token in enumerate(ids)])
                labels.append([token if at in hidden else -100 for at, token in enumerate(ids)])
    found = []
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        width = max(map(len, rows[part]))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows[part]], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows[part]], device=device)
        wanted = torch.tensor([row + [-100] * (width - len(row)) for row in labels[part]], device=device)
        found.append(({"input_ids": ids, "attention_mask": mask}, {"labels": wanted}))
    return found
