"""Random streams: independent by name in version 2, the numbers of earlier versions in version 1."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora2_bench.config.compose import plan_of
from lora2_bench.runner.setup import set_up
from lora2_bench.training.streams import ADAPTER, BATCHES, DROPOUT, HEAD, RandomStreams, mask_stream, masks_name

NAMES = (HEAD, ADAPTER, DROPOUT, BATCHES)


def test_every_stream_of_every_seed_draws_its_own_numbers() -> None:
    keys = list(itertools.product(range(6), NAMES, range(6)))
    generators = [
        torch.Generator().manual_seed(RandomStreams(seed, 2).seed_of(name, number)) for seed, name, number in keys
    ]
    assert len({tuple(torch.rand(4, generator=one).tolist()) for one in generators}) == len(keys)


def test_the_seeds_of_version_2_never_change() -> None:
    assert [RandomStreams(3, 2).seed_of(name, 1) for name in NAMES] == [
        7619136797599510115,
        1676784213809097828,
        8803734347947847417,
        3728890085393689530,
    ]


def test_version_1_has_the_seeds_of_earlier_versions() -> None:
    streams = RandomStreams(3, 1)
    assert [streams.seed_of(name, 2) for name in NAMES] == [3, 3, 3 + 2 * 2**32, 3_000_011]


@pytest.mark.parametrize("version", [1, 2])
def test_the_heads_first_weights_are_not_the_first_maps(version: int, tiny_folders: Callable[[str], Path]) -> None:
    words = ("model=local", f"model.path={tiny_folders('bert')}", "method=lora2", "train.max_length=48", "device=cpu")
    method = set_up(
        plan_of([*words, "data.max_train=48", "data.max_eval=20", "threads=1", f"rng_version={version}"])
    ).method
    first = method.trainable()["bert.encoder.layer.0.attention.self.query.A"].flatten()
    weights = [parameter.flatten() for parameter in method.backbone.head_parameters().values() if parameter.ndim == 2]
    alike = [torch.equal(one[:8], first[:8]) for one in weights]
    assert any(alike) == (version == 1)  # the fault that version 2 mends


def test_masks_are_torchs_on_a_gpu_and_in_the_cells_of_earlier_versions() -> None:
    old, new = (plan_of(["task=rte", f"rng_version={version}"]).cell for version in (1, 2))
    found = {
        (cell.rng_version, masks, device): masks_name(mask_stream(cell, masks, device))
        for cell, masks, device in itertools.product((old, new), ("auto", "torch", "sfc64"), ("cpu", "cuda"))
    }
    by_itself = {key: name for key, name in found.items() if key[1] == "auto"}
    assert [key for key, name in by_itself.items() if name == "sfc64"] == [(2, "auto", "cpu")]
    assert all(name == masks for (_, masks, _), name in found.items() if masks != "auto")
