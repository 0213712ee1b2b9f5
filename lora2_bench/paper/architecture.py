"""Trainable parameters of the paper's methods, computed from the shapes of the encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ALL_MAPS = ("q", "k", "v", "o", "f1", "f2")


@dataclass(frozen=True)
class Architecture:
    """Shapes of an encoder.

    Attributes:
        layers: number of layers.
        width: of the hidden states.
        feed_forward: width between the two feed-forward maps.
        embedding_rows: rows of all embedding tables (vocabulary, positions, token types), each `width` wide.
        outer_norms: layer norms outside the layers.
    """

    layers: int
    width: int
    feed_forward: int
    embedding_rows: int
    outer_norms: int

    def shapes(self, targets: Iterable[str] = ALL_MAPS) -> list[tuple[int, int]]:
        """(d_in, d_out) of the maps named in `targets` (q, k, v, o, f1, f2) of one layer."""
        shape = dict.fromkeys(("q", "k", "v", "o"), (self.width, self.width))
        shape |= {"f1": (self.width, self.feed_forward), "f2": (self.feed_forward, self.width)}
        return [shape[target] for target in targets]


# microsoft/deberta-v3-base: 128,100 words and 2 × 256 relative positions; norms of the embeddings and of the positions.
DEBERTA_V3_BASE = Architecture(12, 768, 3072, embedding_rows=128_100 + 512, outer_norms=2)
# FacebookAI/roberta-large: 50,265 words, 514 positions, one token type; one norm of the embeddings.
ROBERTA_LARGE = Architecture(24, 1024, 4096, embedding_rows=50_265 + 514 + 1, outer_norms=1)
# google-bert/bert-large-uncased: 30,522 words, 512 positions, two token types; one norm of the embeddings.
BERT_LARGE = Architecture(24, 1024, 4096, embedding_rows=30_522 + 512 + 2, outer_norms=1)


def lora(architecture: Architecture, r: int, targets: Iterable[str] = ALL_MAPS) -> int:
    """LoRA: r · (d_in + d_out) for each map."""
    return architecture.layers * sum(r * (d_in + d_out) for d_in, d_out in architecture.shapes(targets))


def lora_with_gates(architecture: Architecture, r: int, targets: Iterable[str] = ALL_MAPS) -> int:
    """AdaLoRA (singular values) and SoRA (gates) before anything is pruned: LoRA's, and r more for each map."""
    return architecture.layers * sum(r * (d_in + d_out) + r for d_in, d_out in architecture.shapes(targets))


def lora2(architecture: Architecture, k: int, r: int, targets: Iterable[str] = ALL_MAPS) -> int:
    """LoRA²: large factors k · (d_in + d_out), small ones 2 · k · r and r for each map."""
    shapes = architecture.shapes(targets)
    return architecture.layers * sum(k * (d_in + d_out) + 2 * k * r + r for d_in, d_out in shapes)


def bitfit(architecture: Architecture) -> int:
    """BitFit: the bias of every map and every layer norm of the encoder."""
    in_a_layer = sum(d_out for _, d_out in architecture.shapes()) + 2 * architecture.width
    return architecture.layers * in_a_layer + architecture.outer_norms * architecture.width


def full(architecture: Architecture, labels: int = 2) -> int:
    """Full fine-tuning: the encoder, the pooler (or dense layer of the head) and a classifier of `labels` outputs."""
    width = architecture.width
    norm = 2 * width
    layer = sum(d_in * d_out + d_out for d_in, d_out in architecture.shapes()) + 2 * norm
    encoder = architecture.layers * layer + architecture.embedding_rows * width + architecture.outer_norms * norm
    return encoder + (width * width + width) + (width * labels + labels)
