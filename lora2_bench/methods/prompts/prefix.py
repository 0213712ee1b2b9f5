"""Prefix tuning (Li and Liang, arXiv 2101.00190) and P-Tuning v2 (Liu et al., arXiv 2110.07602)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PrefixTuningConfig
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.experiment.checks import MOST_RANKS, MOST_TOKENS, require_int, require_number
from lora2_bench.methods.base import Method, freeze_but_head, require_encoder
from lora2_bench.methods.prompts.attention import attend_to_prefix
from lora2_bench.methods.prompts.draws import normal, redraw


@dataclass(frozen=True)
class PrefixOptions:
    """`length` vectors before every layer's keys and values.

    `mlp_width` is the hidden width of the MLP that makes them from one table; null for a table of the vectors
    themselves. `dropout` is of the prefix, `init_std` of the table's normal distribution.
    """

    length: int
    mlp_width: int | None
    dropout: float
    init_std: float

    def __post_init__(self) -> None:
        require_int("method.length", self.length, 1, "an integer of at least 1", MOST_TOKENS)
        if self.mlp_width is not None:
            require_int(
                "method.mlp_width", self.mlp_width, 1, "an integer of at least 1, or null for no MLP", MOST_RANKS
            )
        require_number("method.dropout", self.dropout, 0.0, 0.99, "a number from 0 to 0.99")
        require_number("method.init_std", self.init_std, 1e-12, 1e6, "a number above 0")


class PrefixTable(nn.Module):
    """The prefix of all layers as one table, (length, 2 · layers · width)."""

    def __init__(
        self, options: PrefixOptions, width: int, layers: int, like: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.embedding = normal((options.length, 2 * layers * width), options.init_std, like, generator)

    def forward(self) -> Tensor:
        """(length, 2 · layers · width)."""
        return self.embedding


class PrefixMLP(nn.Module):
    """The prefix as up(tanh(down(table))), with a table (length, width)."""

    def __init__(
        self, options: PrefixOptions, width: int, layers: int, like: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        assert options.mlp_width is not None
        self.embedding = normal((options.length, width), options.init_std, like, generator)
        self.down = redraw(nn.Linear(width, options.mlp_width), like, generator)
        self.up = redraw(nn.Linear(options.mlp_width, 2 * layers * width), like, generator)

    def forward(self) -> Tensor:
        """(length, 2 · layers · width)."""
        prefix: Tensor = self.up(torch.tanh(self.down(self.embedding)))
        return prefix


class PrefixTuning(Method):
    """softmax(Q [P_K; K]ᵀ) [P_V; V] in every layer of the frozen encoder: P_K and P_V train, and the head.

    The numbers of `PrefixTable` and of `PrefixMLP` have PEFT's order: per vector, each layer's key and then its value.
    Tokens keep the positions that they have without a prefix, and the head reads the first of them.
    """

    Options = PrefixOptions
    starts_as_backbone = False
    encoders = ("bert", "roberta", "deberta-v2")

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Freeze all but the head, add the prefix to the model, and let every layer attend to it."""
        because = "whose attention takes keys and values that it did not compute"
        require_encoder("prefixes fit", backbone, self.encoders, because)
        self.backbone = backbone
        keys = [backbone.model.get_submodule(name) for name in backbone.linear_maps(["k"]).values()]
        freeze_but_head(backbone)
        config, base = backbone.model.config, backbone.model.base_model
        weight = keys[0].get_parameter("weight")
        kind = PrefixTable if self.options.mlp_width is None else PrefixMLP
        encoder = kind(self.options, len(weight), len(keys), weight, generator).train(backbone.model.training)
        backbone.model.add_module("prompt_encoder", encoder)
        self._encoder = encoder
        self._shape = (self.options.length, 2 * len(keys), config.num_attention_heads, -1)
        self._parts: tuple[Tensor, ...] = ()
        base.register_forward_pre_hook(self._encode)
        base.register_forward_hook(self._forget, always_call=True)
        for number, layer in enumerate(attend_to_prefix(backbone, self.options.dropout)):
            layer.register_forward_pre_hook(partial(self._give, number))

    def _encode(self, *_: Any) -> None:
        """Compute the prefix of all layers once for this forward pass."""
        self._parts = self._encoder().view(self._shape).permute(1, 2, 0, 3).unbind()

    def _forget(self, *_: Any) -> None:
        self._parts = ()

    def _give(self, number: int, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*self._parts[2 * number : 2 * number + 2], *arguments)

    def prompt_of_peft(self, base: Backbone) -> tuple[PrefixTuningConfig, dict[str, Tensor]] | None:
        """PEFT's prefix, whose tokens count their positions from its end on: those of `base` begin there instead.

        None for DeBERTa-v2, whose attention takes no keys and values in transformers.
        """
        if base.known_type() not in ("bert", "roberta"):
            return None
        length, config = self._shape[0], base.model.config
        shift_positions(base, length)
        prefix = PrefixTuningConfig(
            num_virtual_tokens=length,
            token_dim=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_transformer_submodules=1,
        )
        return prefix, {"prompt_embeddings": self._encoder().detach()}

    def parameters(self) -> dict[str, int]:
        """Counts; `active` is the prefix itself, which is all that is kept of the MLP after training."""
        width = self.backbone.model.config.hidden_size
        return {**super().parameters(), "active": self._shape[0] * self._shape[1] * width}


def shift_positions(base: Backbone, by: int) -> None:
    """Give token i of a BERT or RoBERTa, as its `by` + i th position, the embedding that its i th had."""
    embeddings: Any = base.model.base_model.get_submodule("embeddings")
    old = embeddings.position_embeddings
    first = 0 if old.padding_idx is None else old.padding_idx + 1  # RoBERTa's padding stands before all tokens
    table = old.weight.detach()
    shifted = torch.cat([table[:first], table.new_zeros(by, table.shape[1]), table[first:]])
    old.num_embeddings, old.weight = len(shifted), nn.Parameter(shifted)
    base.model.config.max_position_embeddings = len(shifted)
