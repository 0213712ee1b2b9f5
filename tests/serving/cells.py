"""Cells of the served methods on tiny backbones, and what each answers alone: the slow reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from lora2_bench.config.compose import plan_of
from lora2_bench.experiment.plan import Plan
from lora2_bench.files.paths import CONF
from lora2_bench.methods.base import Method
from lora2_bench.records.store import Store
from lora2_bench.runner.run import run
from lora2_bench.runner.stored import stored_method
from lora2_bench.serving.library import Entry, Library
from tests.conftest import make_tiny

TOLERANCE = 1e-5
"""Largest difference of a logit at which two ways answer alike."""
TOKENS = 16
SETTINGS = (
    "data.max_train=48",
    "data.max_eval=12",
    "train.epochs=2",
    "train.batch_size=8",
    f"train.max_length={TOKENS}",
    "train.lr=2e-2",
    "looks=1",  # the served checkpoint is the last, when ranks are pruned
    "device=cpu",
    "threads=1",
)
TEXTS = (
    "the man saw a dog",
    "a dog",
    "all of the women went home to the river in the morning because it was late and the house was cold and dark",
    "two cats slept",
    "every child who read the book was happy",
)


def adapter(name: str, **settings: object) -> tuple[str, ...]:
    """The overrides of a method without dropout, whose updates grow in a few steps."""
    values = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    own: dict[str, object] = {"dropout": 0} if "dropout" in values else {}
    own |= {"init_std": 0.3} if name == "lora2" else {}
    own |= {"budget.target_r": 2, "budget.t_init": 0.1, "budget.t_final": 0.3} if "budget" in values else {}
    own |= {"l1": 100, "xi": 0.05} if name == "sora" else {}
    return (f"method={name}", *(f"method.{key}={value}" for key, value in {**own, **settings}.items()))


@dataclass
class Trained:
    """A results folder of cells on one tiny backbone, with the plan of each."""

    results: Path
    backbone: Path
    plans: dict[str, Plan]  # by id

    def library(self) -> Library:
        """The folder as a library."""
        return Library(self.results, model_path=str(self.backbone))

    @functools.cached_property
    def alone(self) -> Callable[[Entry, str, str | None], Tensor]:
        """Logits of one text by the cell's own method, put together again from what it kept."""

        @functools.cache
        def method_of(cell: str) -> Method:
            store = Store(self.results)
            record = store.read(cell)
            assert record is not None
            return stored_method(self.plans[cell], store, record, "test")

        def logits(entry: Entry, text: str, pair: str | None) -> Tensor:
            method = method_of(entry.cell)
            texts = (text,) if pair is None else (text, pair)
            row = method.backbone.tokenizer(*texts, truncation=True, max_length=TOKENS, return_tensors="pt")
            with torch.no_grad(), nullcontext() if entry.rank is None else method.at_rank(entry.rank):
                return method.backbone.model.eval()(**row).logits[0]

        return logits


def train(folder: Path, architecture: str, *cells: tuple[str, ...]) -> Trained:
    """Train these cells on a tiny backbone whose outputs differ from row to row."""
    backbone, results = folder / "backbone", folder / "results"
    backbone.mkdir(parents=True)
    make_tiny(architecture, backbone, initializer_range=0.2)
    plans = {}
    for words in cells:
        plan = plan_of(("model=local", f"model.path={backbone}", *SETTINGS, *words, f"results={results}"))
        plans[run(plan).id] = plan
    return Trained(results, backbone, plans)


def requests(entries: Iterator[Entry]) -> Iterator[tuple[Entry, str, str | None]]:
    """Every text for every entry, text after text."""
    known = list(entries)
    for number, text in enumerate(TEXTS):
        for entry in known:
            yield entry, text, TEXTS[number - 1] if entry.pair else None
