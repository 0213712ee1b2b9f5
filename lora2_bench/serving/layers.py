"""The backbone's maps and head for a batch of several adapters, whose rows stand segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone, MapKey
from lora2_bench.errors import UserError
from lora2_bench.methods.lowrank.fused import low_rank_linear
from lora2_bench.methods.lowrank.method import put
from lora2_bench.serving.adapters import Adapter


class Segments:
    """The batch at hand: adapter after adapter, and how many rows are each one's."""

    def __init__(self) -> None:
        self.adapters: Sequence[Adapter] = ()
        self.counts: Sequence[int] = ()

    @contextmanager
    def of(self, adapters: Sequence[Adapter], counts: Sequence[int]) -> Iterator[None]:
        """The context of a forward pass over a batch."""
        before = self.adapters, self.counts
        self.adapters, self.counts = adapters, counts
        try:
            yield
        finally:
            self.adapters, self.counts = before

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """x (rows, ..., d) as one (rows', d) a segment: views of it."""
        wide = x.numel() // (x.shape[0] * x.shape[-1])  # tokens of a row
        parts: Sequence[Tensor] = torch.split(x.view(-1, x.shape[-1]), [count * wide for count in self.counts])
        return parts


class SegmentedLinear(nn.Module):
    """h = x W0ᵀ + b over all rows at once, and each segment's own low-rank update in place.

    A batch of one adapter is computed as training computes it, which merges the update where rows are many.
    """

    def __init__(self, base: nn.Linear, key: MapKey, segments: Segments) -> None:
        super().__init__()
        self.base = base
        self.key = key
        self.segments = segments

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, tokens, d_in) -> (rows, tokens, d_out)."""
        segments = self.segments
        if len(segments.adapters) == 1:
            update = segments.adapters[0].updates.get(self.key)
            if update is not None and update.inner is None:
                down, up = update.down.t(), update.up.t()
                return low_rank_linear(x, self.base.weight, self.base.bias, down, 1.0, up)
        out: Tensor = self.base(x)
        for adapter, part, into in zip(
            segments.adapters, segments.split(x.contiguous()), segments.split(out), strict=True
        ):
            if (update := adapter.updates.get(self.key)) is not None:
                update.add_to(into, part)
        return out


class SegmentedHead(nn.Module):
    """A map or a norm of the head, with each segment's own weights; narrower outputs are filled up with zeros.

    Attributes:
        name: of the module that it stands for.
    """

    def __init__(self, base: nn.Linear | nn.LayerNorm, name: str, segments: Segments) -> None:
        super().__init__()
        self.name = name
        self.segments = segments
        self.norm = (base.normalized_shape, base.eps) if isinstance(base, nn.LayerNorm) else None

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, ..., d) -> (rows, ..., the widest of the segments' outputs)."""
        outs = []
        for adapter, part in zip(self.segments.adapters, torch.split(x, list(self.segments.counts)), strict=True):
            weight, bias = adapter.head[f"{self.name}.weight"], adapter.head.get(f"{self.name}.bias")
            if self.norm is None:
                outs.append(nn.functional.linear(part, weight, bias))
            else:
                outs.append(nn.functional.layer_norm(part, self.norm[0], weight, bias, self.norm[1]))
        width = max(out.shape[-1] for out in outs)
        return torch.cat([nn.functional.pad(out, (0, width - out.shape[-1])) for out in outs])


def segmented(backbone: Backbone) -> Segments:
    """Put the layers above into a backbone, which is then for batches within `Segments.of` only."""
    segments = Segments()
    for key, name in backbone.linear_maps().items():
        base = backbone.model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        put(backbone, name, SegmentedLinear(base, key, segments))
    for top in backbone.head_modules():
        for name, module in list(backbone.model.get_submodule(top).named_modules(prefix=top)):
            if isinstance(module, nn.Linear | nn.LayerNorm):
                put(backbone, name, SegmentedHead(module, name, segments))
            elif next(module.parameters(recurse=False), None) is not None:
                raise UserError(f"model={backbone.name} has a head with {type(module).__name__}, which is not served")
    for module in backbone.model.modules():
        if (bias := getattr(module, "disentangled_attention_bias", None)) is not None:
            module.disentangled_attention_bias = _by_segment(bias, segments)
    return segments


def _by_segment(bias: Callable[..., Tensor], segments: Segments) -> Callable[..., Tensor]:
    """DeBERTa's position terms one segment at a time: they put the position table, which has no rows, through q and k.

    `bias` takes queries and keys of (rows · heads, tokens, width) and gives (rows · heads, tokens, tokens).
    """

    def by_segment(queries: Tensor, keys: Tensor, *others: Any) -> Tensor:
        heads = len(queries) // sum(segments.counts)
        sizes = [count * heads for count in segments.counts]
        found = []
        for adapter, query, key in zip(
            segments.adapters, torch.split(queries, sizes), torch.split(keys, sizes), strict=True
        ):
            with segments.of([adapter], [1]):
                found.append(bias(query, key, *others))
        return torch.cat(found)

    return by_segment
