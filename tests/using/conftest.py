"""Cells of every method on a tiny backbone, trained once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora2_bench.records.store import Store
from lora2_bench.runner.run import run
from tests.composed import plan_of
from tests.conftest import make_tiny
from tests.methods.helpers import fits_tiny

ROWS = 8
QUICK = (
    "data.max_train=16",
    f"data.max_eval={ROWS}",
    "train.epochs=1",
    "train.batch_size=8",
    "train.max_length=48",
    "device=cpu",
    "threads=1",
    "keep=weights",
)


@dataclass(frozen=True)
class Cells:
    """A results folder with finished cells of one tiny backbone, `base`; each is trained when it is first asked for."""

    base: Path
    results: Path

    @property
    def store(self) -> Store:
        """The store of all of them."""
        return Store(self.results)

    def id_of(self, method: str, task: str = "rte") -> str:
        """The id of the cell of a method on a task."""
        rate = {"full": "1e-3", "prefix": "1e-2"}.get(method, "5e-2")
        grown = ("method.init_std=0.3",) if method == "lora2" else ()  # its product of five factors is slow to grow
        words = (f"model.path={self.base}", f"method={method}", f"task={task}", f"train.lr={rate}")
        return run(plan_of("model=local", *words, *QUICK, *fits_tiny(method), *grown, f"results={self.results}")).id


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Cells]:
    """Architecture -> its cells. Outputs of the backbone differ from row to row."""
    made: dict[str, Cells] = {}

    def of(architecture: str) -> Cells:
        if architecture not in made:
            place = tmp_path_factory.mktemp(f"using_{architecture}")
            (place / "base").mkdir()
            made[architecture] = Cells(
                make_tiny(architecture, place / "base", initializer_range=0.2), place / "results"
            )
        return made[architecture]

    return of
