"""The same cell with Hugging Face's Trainer and PEFT, and with this package, in turn, as whole processes."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2_bench.backbones.folder import find_folder
from lora2_bench.config.compose import plan_of
from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import in_steps
from lora2_bench.experiment.maps import MAPS_BY_TYPE
from lora2_bench.experiment.plan import Plan
from lora2_bench.files.arguments import OneLineParser, program, whole_number
from lora2_bench.records.store import Store
from lora2_bench.tasks.sources import load_task

HERE, DYNAMIC, MAXIMUM = "this package", "Trainer + PEFT, dynamic padding", "Trainer + PEFT, padded as run_glue"
SIDES = (HERE, DYNAMIC, MAXIMUM)
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Spent:
    """What one process took, and what it reached: wall and CPU seconds, peak bytes, steps, the deciding score."""

    wall: float
    cpu: float
    peak: int
    steps: int
    score: float


def main() -> None:
    """Measure what the command line names, and print medians and ratios."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, _busy(options.busy):
        for task in options.tasks.split(","):
            for method in options.methods.split(","):
                try:
                    compare(task, method, options, Path(folder))
                except UserError as error:
                    print(f"error: {error}", file=sys.stderr)
                    sys.exit(2)


def _options() -> argparse.Namespace:
    parser = OneLineParser(
        prog=program("lora2_bench.bench") + " --peer",
        description="Train the same cells with Hugging Face's Trainer and PEFT, padded to the longest row of a batch "
        "and to the maximum (as run_glue ships it), and with this package: whole processes, in turn.",
    )
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tasks", default="mrpc", help="with commas (default: mrpc)")
    parser.add_argument("--methods", default="lora,adalora", help="lora, adalora, or both (default)")
    parser.add_argument("--rank", type=whole_number(1, 1024), default=8, help="r of both (default: 8)")
    parser.add_argument("--fraction", type=float, default=1.0, help="of an epoch, above 0 to 1 (default: 1)")
    parser.add_argument("--pairs", type=whole_number(1, 1000), default=5, help="rounds of all sides (default: 5)")
    parser.add_argument("--no-maximum", action="store_true", help="leave out the padding to the maximum")
    parser.add_argument("--busy", type=whole_number(0, 1024), default=0, help="busy processes beside it (default: 0)")
    parser.add_argument("--threads", type=whole_number(1, 1024), default=CORES, help="CPU threads (default: all cores)")
    parser.add_argument("--glue-dir", default=os.environ.get("GLUE_DIR"), help="GLUE's files; without: generated rows")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="more settings of the cells")
    options = parser.read()
    if not 0 < options.fraction <= 1:
        parser.stop(f"--fraction {options.fraction} is not possible: give a number above 0, up to 1")
    if unknown := [name for name in options.methods.split(",") if name not in ("lora", "adalora")]:
        parser.stop(f"--methods {unknown[0]} has no peer here: give lora, adalora, or both")
    return options


def compare(task: str, method: str, options: argparse.Namespace, folder: Path) -> dict[str, list[Spent]]:
    """Run every side `options.pairs` times, print each run and the ratios, and return what each took."""
    overrides = [f"method={method}", f"task={task}", f"kr={options.rank}", f"threads={options.threads}", *options.set]
    overrides += ["data=local", f"data.dir={options.glue_dir}"] if options.glue_dir else ["data=mini"]
    sides = [side for side in SIDES if side != MAXIMUM or not options.no_maximum]
    cell, peer = same_cell(overrides, options.fraction)
    told = f"{task}, {method} r={options.rank}, {peer['steps']} steps of {peer['batch_size']} rows"
    print(f"{told}, {options.threads} threads" + (f", {options.busy} busy beside" if options.busy else ""), flush=True)
    found: dict[str, list[Spent]] = {side: [] for side in sides}
    for number in range(options.pairs):
        for place in range(len(sides)):  # each side first in its turn
            side = sides[(place + number) % len(sides)]
            with tempfile.TemporaryDirectory(dir=folder) as own:
                spent = _here(cell, Path(own)) if side == HERE else _peer(peer, side, Path(own))
            found[side].append(spent)
            print(_line(side, [spent]), flush=True)
    print("medians:", flush=True)
    for side in sides:
        ratios = {
            what: statistics.median(
                getattr(ours, what) / getattr(theirs, what)
                for ours, theirs in zip(found[HERE], found[side], strict=True)
            )
            for what in ("wall", "cpu", "peak")
        }
        beside = "".join(f", {what} {ratio:.2f}" for what, ratio in ratios.items())
        print(
            _line(side, found[side]) + ("" if side == HERE else f"; this package is at{beside[1:]} of it"), flush=True
        )
    return found


def _line(side: str, runs: Sequence[Spent]) -> str:
    wall, cpu, peak, score = (statistics.median(getattr(run, name) for run in runs) for name in _SHOWN)
    return f"  {side:35} {wall:7.1f} s {cpu:7.1f} CPU s {peak / 1e9:5.2f} GB  score {score:.4f}, {runs[0].steps} steps"


_SHOWN = ("wall", "cpu", "peak", "score")


def same_cell(overrides: Sequence[str], fraction: float) -> tuple[list[str], dict[str, Any]]:
    """The overrides of one cell of `fraction` of an epoch, and the same in the words of Trainer and PEFT."""
    plan = plan_of([*overrides, "train.epochs=1"])
    cell, place = plan.cell, plan.run_options
    data = load_task(cell.task, cell.data.source, glue_dir=place.data_dir, mini_seed=cell.data.seed or 0)
    rows = min(data.rows["train"], cell.data.max_train or data.rows["train"])
    steps = max(1, round(fraction * cell.train.steps_per_epoch(rows)))
    overrides = [*overrides, "train.epochs=1", f"train.max_steps={steps}"]
    return overrides, peer_settings(plan_of(overrides), steps)


def peer_settings(plan: Plan, steps: int) -> dict[str, Any]:
    """A cell's settings as plain data, for `peer_trainer`. Raises UserError for a backbone without its files."""
    cell, place, train, method = plan.cell, plan.run_options, plan.cell.train, plan.cell.method
    folder = find_folder(cell.model, path=place.model_path, package=place.model_package, folder=place.model_folder)
    maps = MAPS_BY_TYPE[json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]]
    settings = {
        "task": cell.task,
        "source": cell.data.source,
        "data_dir": place.data_dir,
        "max_train": cell.data.max_train,
        "max_eval": cell.data.max_eval,
        "model": str(folder),
        "targets": [name for name, letter in maps.items() if letter in method["targets"]],
        "r": method["r"],
        "alpha": method["alpha"],
        "dropout": method["dropout"],
        "steps": steps,
        "warmup": in_steps(train.warmup, steps),
        "eval_batch_size": place.eval_batch_size,
        "seed": cell.seed,
        "threads": place.threads,
    }
    same = ("batch_size", "lr", "weight_decay", "schedule", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_eps")
    settings |= {name: getattr(train, name) for name in (*same, "max_length")}
    if (budget := method.get("budget")) is not None:
        ends = {name: in_steps(budget[name], steps) for name in ("t_init", "t_final", "delta_t")}
        settings["budget"] = {**budget, **ends, "gamma": method["reg"]["gamma"]}
    return settings


def _here(overrides: Sequence[str], folder: Path) -> Spent:
    """Run this package's command, in the user's own cache but without tokens kept there: the peers keep none."""
    from lora2_bench.files.paths import cache_folder

    cache = folder / "cache"
    cache.mkdir()
    if (own := cache_folder()) is not None and (own / "imports").is_dir():
        (cache / "imports").symlink_to(own / "imports")
    command = ["-m", "lora2_bench", *overrides, f"results={folder / 'results'}"]
    wall, cpu, peak, _ = measured(command, LORA2_BENCH_CACHE=str(cache))
    record = Store(folder / "results").read(plan_of(overrides).cell.id)
    if record is None:
        raise UserError("this package's cell left no record: run it by hand to see why")
    return Spent(wall, cpu, peak, record.result["steps"], record.result["best"]["score"])


def _peer(settings: dict[str, Any], side: str, folder: Path) -> Spent:
    told = {**settings, "padded": side == MAXIMUM, "output": str(folder)}
    command = ["-m", "lora2_bench.bench.peer_trainer", json.dumps(told)]
    threads = {} if settings["threads"] is None else {"OMP_NUM_THREADS": str(settings["threads"])}
    wall, cpu, peak, out = measured(command, **threads)
    reached = json.loads(out.strip().splitlines()[-1])
    return Spent(wall, cpu, peak, reached["steps"], reached["score"])


def measured(arguments: Sequence[str], **environment: str) -> tuple[float, float, int, str]:
    """Wall seconds, CPU seconds, peak bytes and standard output of `python ARGUMENTS`. Raises UserError."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.perf_counter()
        running = subprocess.Popen(
            [sys.executable, *arguments], env={**os.environ, **environment}, stdout=out, stderr=err
        )
        _, status, used = os.wait4(running.pid, 0)
        wall = time.perf_counter() - begun
        running.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    if running.returncode:
        end = texts[1].strip().splitlines()[-1:] or ["no word"]
        raise UserError(f"a side ended with {running.returncode} ({end[0][:300]}): mend it, or leave it out")
    unit = 1 if sys.platform == "darwin" else 1024
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss * unit, texts[0]


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Within it as many processes do nothing but count."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
