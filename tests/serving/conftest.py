"""Trained cells and an engine over them, made once a process."""

from __future__ import annotations

import pytest

from lora2_bench.serving.engine import Engine
from tests.serving.cells import Trained, adapter, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Each served method, heads of one, two and three outputs, tasks of one text and of two, and two that share VeRA's
    pair, on a tiny BERT."""
    return train(
        tmp_path_factory.mktemp("served"),
        "bert",
        ("task=rte", *adapter("lora", r=3)),
        ("task=rte", *adapter("adalora", r=4)),
        ("task=mrpc", *adapter("sora", r=5, l1_form="mean")),
        ("task=mnli", *adapter("lora2", k=2, r=6, **{"reg.mean_over": "chosen"})),
        ("task=cola", *adapter("dylora", r=4)),
        ("task=stsb", *adapter("lora", r=2, targets="[v,f2]")),
        ("task=rte", *adapter("vera", r=30)),
        ("task=cola", *adapter("vera", r=30), "train.weight_decay=0.01"),
    )


@pytest.fixture(scope="session")
def engine(trained: Trained) -> Engine:
    """An engine with room for all of them."""
    return Engine(trained.library(), memory=2**30, device="cpu", threads=1)
