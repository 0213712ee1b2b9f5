"""Encoders of the real sizes with random weights: the cost of a step does not depend on their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import BertConfig, DebertaV2Config, PretrainedConfig, RobertaConfig


@dataclass(frozen=True)
class Size:
    """One backbone and the batch that it is timed with.

    Attributes:
        config: number of layers (None: all) -> its configuration.
        rows, length: of the batch, in tokens without padding.
    """

    config: Callable[[int | None], PretrainedConfig]
    rows: int
    length: int


def minilm(layers: int | None = None) -> PretrainedConfig:
    """6 layers of width 384 and 1536, as sentence-transformers/all-MiniLM-L6-v2."""
    return BertConfig(
        hidden_size=384, num_hidden_layers=layers or 6, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
    )


def roberta_base(layers: int | None = None) -> PretrainedConfig:
    """12 layers of width 768 and 3072, as FacebookAI/roberta-base."""
    return RobertaConfig(
        vocab_size=50265, num_hidden_layers=layers or 12, max_position_embeddings=514, type_vocab_size=1
    )


def roberta_large(layers: int | None = None) -> PretrainedConfig:
    """24 layers of width 1024 and 4096, as FacebookAI/roberta-large."""
    return RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=layers or 24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
    )


def deberta_v3_base(layers: int | None = None) -> PretrainedConfig:
    """12 layers of width 768 and 3072, as microsoft/deberta-v3-base."""
    return DebertaV2Config(
        vocab_size=128100,
        hidden_size=768,
        num_hidden_layers=layers or 12,
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        position_buckets=256,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
    )


SIZES = {
    "minilm": Size(minilm, 32, 64),
    "roberta_base": Size(roberta_base, 16, 64),
    "roberta_large": Size(roberta_large, 16, 64),
    "deberta_v3_base": Size(deberta_v3_base, 16, 64),
}
