"""Prompt tuning (Lester et al., arXiv 2104.08691): trained vectors before the embedded input."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.experiment.checks import MOST_TOKENS, require_choice, require_int
from lora2_bench.methods.base import Method, freeze_but_head, require_encoder
from lora2_bench.methods.lowrank.layers import uniform
from lora2_bench.methods.prompts.attention import with_visible

INITS = ("vocabulary", "uniform")


class InputPrompt(Method):
    """`options.length` vectors before the encoder's input, from a module of the subclass: that trains, and the head.

    They stand between the embeddings, norm and positions included, and the first layer; all tokens attend to them, and
    the encoder's output is cut after the last layer. So tokens keep their positions, and the head reads the first one.
    """

    starts_as_backbone = False
    encoders = ("bert", "roberta", "deberta-v2")

    @abstractmethod
    def prompt_encoder(self, embeddings: nn.Module, width: int, like: Tensor, generator: torch.Generator) -> nn.Module:
        """A module that gives the prompt (length, width), drawn from `generator`, with dtype and device of `like`."""

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Freeze all but the head, add the prompt to the model, and put it before the encoder's input."""
        self.backbone = backbone
        require_encoder("prompts at the input fit", backbone, self.encoders, "whose layers take one mask for all")
        freeze_but_head(backbone)
        base, width = backbone.model.base_model, backbone.model.config.hidden_size
        embeddings, encoder = base.get_submodule("embeddings"), base.get_submodule("encoder")
        like = base.get_input_embeddings().weight
        self._prompt = self.prompt_encoder(embeddings, width, like, generator).train(backbone.model.training)
        backbone.model.add_module("prompt_encoder", self._prompt)
        encoder.register_forward_pre_hook(self._put, with_kwargs=True)
        encoder.register_forward_hook(self._cut)

    def _put(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden, *rest = args
        if rest:  # DeBERTa gives the mask by its place
            rest[0] = self._widened(rest[0])
        else:
            kwargs = {**kwargs, "attention_mask": self._widened(kwargs["attention_mask"])}
        prompt = self._prompt().to(hidden.dtype).expand(len(hidden), -1, -1)
        return (torch.cat([prompt, hidden], dim=1), *rest), kwargs

    def _widened(self, mask: Tensor | None) -> Tensor | None:
        """A mask (rows, tokens) or (rows, 1, tokens, tokens), its queries all alike, with the prompt visible."""
        if mask is None:
            return None
        if mask.ndim == 2:
            return torch.cat([mask.new_ones(len(mask), self.options.length), mask], dim=1)
        return with_visible(mask[:, :, :1], self.options.length)

    def _cut(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, self.options.length :]
        if output.hidden_states is not None:  # DeBERTa's head reads the last of these
            output.hidden_states = tuple(states[:, self.options.length :] for states in output.hidden_states)
        return output

    def parameters(self) -> dict[str, int]:
        """Counts; `active` is the prompt itself, which is all that is kept of an encoder after training."""
        return {**super().parameters(), "active": self.options.length * self.backbone.model.config.hidden_size}


@dataclass(frozen=True)
class PromptOptions:
    """`length` vectors that start as embedded tokens (`vocabulary`) or uniform within 0.5 (`uniform`)."""

    length: int
    init: str

    def __post_init__(self) -> None:
        require_int("method.length", self.length, 1, "an integer of at least 1", MOST_TOKENS)
        require_choice("method.init", self.init, INITS)


class PromptTable(nn.Module):
    """The prompt as a table (length, width)."""

    def __init__(self, embedding: nn.Parameter) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self) -> Tensor:
        """(length, width)."""
        return self.embedding


class PromptTuning(InputPrompt):
    """A prompt whose vectors train as they are."""

    Options = PromptOptions

    def prompt_encoder(self, embeddings: nn.Module, width: int, like: Tensor, generator: torch.Generator) -> nn.Module:
        """A table that starts as `options.init` says."""
        if self.options.init == "uniform":
            return PromptTable(uniform((self.options.length, width), 0.5, like, generator))
        return PromptTable(nn.Parameter(embedded_tokens(embeddings, self.options.length, len(like), generator)))


@torch.no_grad()
def embedded_tokens(embeddings: nn.Module, count: int, vocabulary: int, generator: torch.Generator) -> Tensor:
    """`count` tokens drawn from the vocabulary, each embedded as an input of its own: (count, width)."""
    device = next(embeddings.parameters()).device
    ids = torch.randint(vocabulary, (count, 1), generator=generator).to(device)
    was_training = embeddings.training
    embedded: Tensor = embeddings.eval()(input_ids=ids)
    embeddings.train(was_training)
    return embedded.squeeze(1).clone()
