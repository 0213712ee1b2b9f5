"""All that a GPU can show in one run that nobody watches: `python scripts/bench_gpu.py`.

Each part prints its table and is written to the file at once. One that fails is named, and the next goes on. What has
not begun when the minutes are over is left out, and named too. With `--device cpu` the same lines run on a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

from lora2_bench.backbones.joined import joined
from lora2_bench.bench.cases import Case, base_of, batch_of, make_cases, step_of
from lora2_bench.bench.names import BASELINE, SIZE_NAMES
from lora2_bench.bench.sizes import SIZES, Size
from lora2_bench.bench.timing import Spread, ratio, time_steps, to_json
from lora2_bench.errors import first_line
from lora2_bench.files.arguments import OneLineParser, folder, whole_number
from lora2_bench.files.writing import write_json
from lora2_bench.training.machine import hardware, versions
from lora2_bench.training.pack import Pack
from lora2_bench.training.runtime import set_up_process
from lora2_bench.training.step import TrainingStep

ENGINES = (
    BASELINE,
    *("lora r=8", "lora r=8 plain", "lora2 k=1", "lora2 k=8", "adalora r=8", "sora r=8"),
    *("peft lora r=8", "peft adalora r=8"),
)
CASE = "lora r=8"
Found = dict[str, Any]


def main() -> None:
    """Run every part that the command line names; exit code 1 where one failed or was left out."""
    options = _options()
    set_up_process(options.threads)
    transformers.logging.set_verbosity_error()
    path = options.results / "bench" / f"gpu-{platform.node() or 'host'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told: Found = {"begun": now, "hardware": hardware(options.device), "versions": versions(), "parts": {}}
    deadline, whole = time.monotonic() + 60 * options.minutes, True
    for name in options.parts.split(","):
        begun = time.monotonic()
        if begun > deadline:
            found: Found = {"left_out": f"{options.minutes} minutes were over"}
        else:
            try:
                found = PARTS[name](options)
            except Exception as error:
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {first_line(error)}"}
        whole = whole and not {"left_out", "error"} & found.keys()
        told["parts"][name] = {**found, "seconds": round(time.monotonic() - begun, 1)}
        write_json(path, told)
        print(f"{name}: {told['parts'][name]['seconds']} s", *(found.get("left_out", ""), found.get("error", "")))
        print(flush=True)
    print(f"written: {path}")
    sys.exit(not whole)


def _options() -> argparse.Namespace:
    parser = OneLineParser(prog="scripts/bench_gpu.py", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas, in this order (default: all)")
    parser.add_argument("--sizes", default="minilm,roberta_base,deberta_v3_base", help=f"of {','.join(SIZE_NAMES)}")
    parser.add_argument("--precisions", default="bf16,fp32", help="with commas (default: bf16,fp32)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--layers", type=whole_number(1, 100), help="layers of each encoder (default: all)")
    parser.add_argument("--rounds", type=whole_number(1, 10**6), default=20, help="steps of each that count (20)")
    parser.add_argument("--warm-up", type=whole_number(0, 10**6), default=5, help="steps of each before them (5)")
    parser.add_argument("--rows", default="8,32,128", help="rows of a batch, of `rows` and `pack` (8,32,128)")
    parser.add_argument("--packs", default="2,4,8", help="cells side by side (2,4,8)")
    parser.add_argument("--compiler", default="inductor", help="torch.compile's backend (inductor)")
    parser.add_argument("--minutes", type=whole_number(0, 10**4), default=9, help="after which no part begins (9)")
    parser.add_argument("--threads", type=whole_number(1, 1024), help="CPU threads (default: all cores)")
    parser.add_argument("--results", type=folder, default=Path("results"), help="bench/gpu-HOST.json is written there")
    options = parser.read()
    for name, known in (("parts", PARTS), ("sizes", SIZE_NAMES), ("precisions", ("bf16", "fp32"))):
        if unknown := [one for one in getattr(options, name).split(",") if one not in known]:
            parser.stop(f"--{name} {unknown[0]} is unknown: give some of {', '.join(known)}")
    for name in ("rows", "packs"):
        if not all(one.isdecimal() and int(one) for one in getattr(options, name).split(",")):
            parser.stop(f"--{name} {getattr(options, name)} is not possible: give whole numbers with commas")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.stop("--device cuda: torch finds no GPU here: give --device cpu to try the script itself")
    return options


def _each(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Pairs of size and precision."""
    return [(size, one) for one in options.precisions.split(",") for size in options.sizes.split(",")]


def _timed(cases: Sequence[Case], options: argparse.Namespace, title: str, reference: str) -> Found:
    """Milliseconds of each case, and its ratio to the reference: printed, and as plain data."""
    seconds = time_steps(cases, options.rounds, options.warm_up, options.device)
    print(f"{title}: ms per step, and of {reference} (median, quartiles)")
    found = {}
    for case in cases:
        spent, share = Spread.of(seconds[case.name]), ratio(seconds, case.name, reference)
        print(f"  {case.name:34} {1000 * spent.median:9.2f}   {share}")
        found[case.name] = {"seconds": to_json(spent), "ratio": to_json(share)}
    return found


def engines(options: argparse.Namespace) -> Found:
    """One step of each method, of PEFT's, and of the frozen backbone."""
    found = {}
    for name, precision in _each(options):
        cases, _ = make_cases(SIZES[name], options.layers, ENGINES, options.device, precision)
        found[f"{name} {precision}"] = _timed(cases, options, f"{name}, {precision}", BASELINE)
    return found


def _variants(
    options: argparse.Namespace, make: Callable[[TrainingStep], Mapping[str, TrainingStep]], changes: Mapping[str, Any]
) -> Found:
    """Steps of `CASE` after each change of the untouched model, and after what `make` adds to each."""
    found = {}
    for name, precision in _each(options):
        size = SIZES[name]
        base = base_of(size, options.layers, options.device)
        batch = batch_of(size, base)
        steps: dict[str, TrainingStep] = {}
        for told, change in changes.items():
            for more, step in make(step_of(CASE, base, size, precision, change)).items():
                steps[f"{told}{more}"] = step
        cases = [Case(told, partial(_take, step, batch), 0) for told, step in steps.items()]
        found[f"{name} {precision}"] = _timed(cases, options, f"{name}, {precision}, {CASE}", cases[0].name)
    return found


def _take(step: TrainingStep, batch: Mapping[str, torch.Tensor], number: int) -> float:
    return step(dict(batch), number)


def attention(options: argparse.Namespace) -> Found:
    """Torch's fused attention and attention as it is written; DeBERTa has its own."""
    named = argparse.Namespace(**vars(options))
    named.sizes = ",".join(name for name in options.sizes.split(",") if not name.startswith("deberta"))
    if not named.sizes:
        return {"none": "no size attends through the interface"}
    changes = {kind: lambda model, kind=kind: model.set_attn_implementation(kind) for kind in ("sdpa", "eager")}
    return _variants(named, lambda step: {"": step}, changes)


def compiled(options: argparse.Namespace) -> Found:
    """torch.compile over the model, and over CUDA graphs of what it makes (mode=reduce-overhead)."""
    modes = ("default", "reduce-overhead") if options.compiler == "inductor" else (None,)
    found = _variants(options, lambda step: {"": step}, {"as it is": lambda _: None})
    for mode in modes:
        torch.compiler.reset()

        def compile_(step: TrainingStep, mode: str | None = mode) -> Mapping[str, TrainingStep]:
            step.model = torch.compile(step.model, backend=options.compiler, mode=mode)  # type: ignore[assignment]
            return {"": step}

        more = _variants(options, compile_, {f"compiled, {mode or options.compiler}": lambda _: None})
        for name, steps in more.items():
            found[name] |= steps
    return found


def rows(options: argparse.Namespace) -> Found:
    """Seconds per row of batches of several sizes."""
    found: Found = {}
    for name, precision in _each(options):
        for count in map(int, options.rows.split(",")):
            size = dataclasses.replace(SIZES[name], rows=count)
            cases, _ = make_cases(size, options.layers, [BASELINE, CASE], options.device, precision)
            title = f"{name}, {precision}, {count} rows"
            found[title] = _timed(cases, options, title, BASELINE)
    return found


def pack(options: argparse.Namespace) -> Found:
    """A step of several cells side by side, beside the same cells one after another."""
    found: Found = {}
    for name, precision in _each(options):
        for count in map(int, options.rows.split(",")):
            size = dataclasses.replace(SIZES[name], rows=count)
            for cells in map(int, options.packs.split(",")):
                title = f"{name}, {precision}, {count} rows, {cells} cells"
                found[title] = _packed(size, cells, precision, options)
                print(f"{title}: side by side at {found[title]['ratio']['median']:.3f} of one after another")
    return found


def _packed(size: Size, cells: int, precision: str, options: argparse.Namespace) -> Found:
    base = base_of(size, options.layers, options.device)
    batch = batch_of(size, base)
    steps = [step_of(CASE, base, size, precision) for _ in range(cells)]
    ratios: list[float] = []
    alone: list[float] = []
    together: list[float] = []
    _side_by_side(steps, batch, max(1, options.warm_up))  # its memory is the larger
    for number in range(3):  # each way first in its turn
        ways: list[tuple[list[float], Callable[[], None]]] = [
            (alone, partial(_one_after_another, steps, batch, options.rounds)),
            (together, partial(_side_by_side, steps, batch, options.rounds)),
        ]
        for seconds, go in ways if number % 2 else reversed(ways):
            begun = time.perf_counter()
            go()
            if options.device == "cuda":
                torch.cuda.synchronize()
            seconds.append((time.perf_counter() - begun) / options.rounds / cells)
        ratios.append(together[-1] / alone[-1])
    return {"alone": median(alone), "together": median(together), "ratio": to_json(Spread.of(ratios))}


def _one_after_another(steps: Sequence[TrainingStep], batch: Mapping[str, torch.Tensor], rounds: int) -> None:
    for step in steps:
        step.pack = None
        for number in range(1, rounds + 1):
            step(dict(batch), number)


def _side_by_side(steps: Sequence[TrainingStep], batch: Mapping[str, torch.Tensor], rounds: int) -> None:
    together = Pack(steps[0].accelerator.device.type)

    def take(step: TrainingStep) -> None:
        step.pack = together
        with joined(step.model, together):
            for number in range(1, rounds + 1):
                step(dict(batch), number)

    for end in together.run([partial(take, step) for step in steps]):
        if isinstance(end, BaseException):
            raise end


def peers(options: argparse.Namespace) -> Found:
    """Whole runs beside Hugging Face's Trainer with PEFT, on generated rows."""
    told = ["--peer", "--pairs", "3", "--set", f"device={options.device}", "train.max_length=64"]
    if options.device == "cpu":
        told += ["data.max_train=64", "data.max_eval=32"]
    ran = subprocess.run(
        [sys.executable, "-m", "lora2_bench.bench", *told], capture_output=True, text=True, check=False
    )
    print(ran.stdout)
    if ran.returncode:
        return {"error": (ran.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    return {"lines": ran.stdout.splitlines()}


PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "engines": engines,
    "pack": pack,
    "rows": rows,
    "attention": attention,
    "compiled": compiled,
    "peers": peers,
}
"""Name -> part, the most telling first."""
