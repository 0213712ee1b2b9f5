"""P-tuning (Liu et al., arXiv 2103.10385): a prompt that a small network makes while it trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PromptEncoder, PromptEncoderConfig
from torch import Tensor, nn

from lora2_bench.experiment.checks import MOST_RANKS, MOST_TOKENS, require, require_choice, require_int, require_number
from lora2_bench.methods.prompts.draws import redraw
from lora2_bench.methods.prompts.soft import InputPrompt

ENCODERS = ("lstm", "mlp")


@dataclass(frozen=True)
class PTuningOptions:
    """`length` vectors from a bidirectional LSTM of two layers with an MLP, or from an MLP of three linear maps.

    `encoder_width` is the hidden width of either; `dropout` is between the LSTM's layers.
    """

    length: int
    encoder: str
    encoder_width: int
    dropout: float

    def __post_init__(self) -> None:
        require_int("method.length", self.length, 1, "an integer of at least 1", MOST_TOKENS)
        require_choice("method.encoder", self.encoder, ENCODERS)
        require_int("method.encoder_width", self.encoder_width, 1, "an integer of at least 1", MOST_RANKS)
        require_number("method.dropout", self.dropout, 0.0, 0.99, "a number from 0 to 0.99")
        require(self.encoder == "lstm" or self.dropout == 0, "method.dropout", self.dropout, "0 with encoder=mlp")


class ReparametrisedPrompt(nn.Module):
    """PEFT's prompt encoder over all of its virtual tokens; gives the prompt (length, width)."""

    def __init__(self, options: PTuningOptions, width: int) -> None:
        super().__init__()
        config = PromptEncoderConfig(
            num_virtual_tokens=options.length,
            num_transformer_submodules=1,
            token_dim=width,
            encoder_reparameterization_type=options.encoder.upper(),
            encoder_hidden_size=options.encoder_width,
            encoder_dropout=options.dropout,
        )
        self.peft = PromptEncoder(config)

    def forward(self) -> Tensor:
        """(length, width), computed in the weights' own precision."""
        weight = self.peft.embedding.weight
        with torch.autocast(weight.device.type, enabled=False):
            prompt: Tensor = self.peft(torch.arange(len(weight), device=weight.device).unsqueeze(0))
        return prompt[0]


class PTuning(InputPrompt):
    """A prompt made by PEFT's prompt encoder, of which nothing but the prompt is needed after training."""

    Options = PTuningOptions

    def prompt_encoder(self, embeddings: nn.Module, width: int, like: Tensor, generator: torch.Generator) -> nn.Module:
        """PEFT's prompt encoder with weights from `generator`."""
        return redraw(ReparametrisedPrompt(self.options, width), like, generator)
