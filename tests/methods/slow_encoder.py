"""BERT, RoBERTa and DeBERTa-v2 as their equations are written: one row without padding, query by query."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lora2_bench.backbones.backbone import Backbone

Pair = tuple[Tensor, Tensor]


def slow_logits(
    backbone: Backbone, ids: Tensor, prefixes: list[Pair] | None = None, prompt: Tensor | None = None
) -> Tensor:
    """Logits of one row of token ids (tokens).

    `prefixes` has each layer's (keys, values), (length, width) each, which stand before those of the tokens. `prompt`
    (length, width) stands before the embedded tokens, and is cut off before the head.
    """
    model: Any = backbone.model
    base = model.base_model
    states = base.embeddings(input_ids=ids[None])[0]
    if prompt is not None:
        states = torch.cat([prompt, states])
    for number, layer in enumerate(base.encoder.layer):
        states = slow_layer(base.encoder, layer, states, prefixes[number] if prefixes else None)
    states = states[len(prompt) if prompt is not None else 0 :]
    pooler = getattr(model, "pooler", None) or getattr(base, "pooler", None)
    head: Tensor = model.classifier(states[None] if pooler is None else pooler(states[None]))[0]
    return head


def slow_layer(encoder: Any, layer: Any, states: Tensor, prefix: Pair | None) -> Tensor:
    """States (tokens, width) after one layer."""
    attention = layer.attention.self
    maps = [getattr(attention, name, None) or getattr(attention, f"{name}_proj") for name in ("query", "key", "value")]
    query, key, value = (linear(states) for linear in maps)
    heads = attention.num_attention_heads
    width = query.shape[1] // heads
    relative = getattr(attention, "relative_attention", False)
    positions = [linear(encoder.get_rel_embedding()) for linear in maps[:2]] if relative else None
    contexts = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        before = [x[:, part] for x in prefix] if prefix else [key[:0, part], value[:0, part]]
        rows = []
        for i in range(len(states)):
            scores = [query[i, part] @ k for k in (*before[0], *key[:, part])]
            if positions is not None:
                for j in range(len(states)):
                    place = bucket(i - j, attention.position_buckets, attention.max_relative_positions)
                    bias = query[i, part] @ positions[1][place, part] + key[j, part] @ positions[0][place, part]
                    scores[len(before[0]) + j] = scores[len(before[0]) + j] + bias
            scale = math.sqrt(width * (3 if relative else 1))
            weights = torch.softmax(torch.stack(scores) / scale, 0)
            rows.append(weights @ torch.cat([before[1], value[:, part]]))
        contexts.append(torch.stack(rows))
    output = layer.attention.output
    states = output.LayerNorm(output.dense(torch.cat(contexts, 1)) + states)
    inner = torch.nn.functional.gelu(layer.intermediate.dense(states))
    result: Tensor = layer.output.LayerNorm(layer.output.dense(inner) + states)
    return result


def bucket(distance: int, buckets: int, most: int) -> int:
    """The row of DeBERTa's relative embeddings for a distance: exact up to half the buckets, logarithmic beyond."""
    middle = buckets // 2
    if abs(distance) > middle:
        share = math.log(abs(distance) / middle) / math.log((most - 1) / middle)
        distance = int(math.copysign(math.ceil(share * (middle - 1)) + middle, distance))
    return min(max(distance + buckets, 0), 2 * buckets - 1)
