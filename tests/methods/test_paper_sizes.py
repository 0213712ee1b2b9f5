"""The paper's parameter counts, from the architectures' configurations on the meta device."""

from __future__ import annotations

import pytest
import torch

from lora2_bench.backbones.backbone import Backbone, random_backbone
from lora2_bench.bench.sizes import SIZES
from lora2_bench.methods.base import Method
from lora2_bench.paper import architecture
from tests.methods.helpers import make_method

ALL = ["q", "k", "v", "o", "f1", "f2"]


def of_size(name: str) -> Backbone:
    with torch.device("meta"):
        return random_backbone(SIZES[name].config(None))


@pytest.mark.parametrize(
    ("method", "changes", "count"),
    [
        ("bitfit", {}, 102_912),  # Table 1: 0.1M
        ("lora", {"r": 1, "targets": ALL}, 165_888),  # Table 1: 0.17M
        ("lora", {"r": 8, "targets": ALL}, 1_327_104),  # Table 1: 1.33M
        ("lora2", {"k": 1, "targets": ALL}, 167_616),  # Table 1: 0.17M; Table 4: 167.6k
        ("lora2", {"k": 8, "targets": ALL}, 1_336_896),  # Table 1: 1.33M
        ("lora2", {"k": 1, "targets": ["q", "k"]}, 37_440),  # Table 4: 37.4k
        ("lora2", {"k": 1, "targets": ["q", "v"]}, 37_440),  # Table 4: 37.4k
        ("lora2", {"k": 1, "targets": ["q", "k", "v"]}, 56_160),  # Table 4: 56.2k
        # Printed for these are counts after pruning (0.32M, 1.27M; 0.12M, 0.91M), which depend on what a run prunes.
        ("adalora", {"r": 2, "targets": ALL}, 331_920),
        ("adalora", {"r": 8, "targets": ALL}, 1_327_680),
        ("sora", {"r": 1, "targets": ALL}, 165_960),
        ("sora", {"r": 8, "targets": ALL}, 1_327_680),
    ],
)
def test_deberta_v3_base(method: str, changes: dict[str, object], count: int) -> None:
    ranks = {"r": 8} if method == "lora2" else {}
    made = make_method(method, of_size("deberta_v3_base"), **{**ranks, **changes})
    assert (
        Method.parameters(made)["adapter"] == count
    )  # SoRA's own `active` looks at gates, which the meta device lacks


@pytest.mark.parametrize(
    ("method", "backbone", "changes", "count", "kept"),
    [
        ("lora", "roberta_base", {"r": 8, "targets": ["q", "v"]}, 294_912, 294_912),  # printed: 0.3M
        ("dylora", "roberta_base", {"r": 8, "targets": ["q", "v"]}, 294_912, 294_912),  # LoRA's of its largest rank
        ("prefix", "roberta_base", {"length": 32, "mlp_width": 800}, 15_403_808, 589_824),
        ("ptuning_v2", "roberta_large", {"length": 128, "mlp_width": None}, 6_291_456, 6_291_456),
    ],
)
def test_the_other_papers(method: str, backbone: str, changes: dict[str, object], count: int, kept: int) -> None:
    """VeRA's printed counts are in test_vera.py."""
    counts = make_method(method, of_size(backbone), **changes).parameters()
    assert (counts["adapter"], counts["active"]) == (count, kept)


def test_roberta_large_k1() -> None:
    assert make_method("lora2", of_size("roberta_large"), k=1, r=8, targets=ALL).parameters()["adapter"] == 445_824


def test_full_fine_tuning_of_deberta_v3_base() -> None:
    counts = make_method("full", of_size("deberta_v3_base")).parameters()
    assert counts["adapter"] + counts["head"] == 184_423_682  # Table 1: 184M


@pytest.mark.parametrize(
    ("shape", "name"),
    [(architecture.DEBERTA_V3_BASE, "deberta_v3_base"), (architecture.ROBERTA_LARGE, "roberta_large")],
)
def test_counts_from_shapes_alone_are_those_of_the_real_modules(shape: architecture.Architecture, name: str) -> None:
    counts = make_method("full", of_size(name)).parameters()
    assert architecture.full(shape) == counts["adapter"] + counts["head"]
    encoder = of_size(name).model.base_model
    biases = {name: p.numel() for name, p in encoder.named_parameters() if name.endswith("bias")}
    assert architecture.bitfit(shape) == sum(count for name, count in biases.items() if "pooler" not in name)
