"""What a suite costs before it is run: cells, steps, hours on one GPU and days on several.

    python scripts/study_cost.py                            # estimated for one A100, and named so
    python scripts/study_cost.py --printed                  # with the seconds that the paper prints (its Table 2)
    python scripts/study_cost.py --seconds-per-step 0.21    # as measured on the GPU at hand

A step's seconds are measured by `python -m lora2_bench.bench --sizes deberta_v3_base --device cuda`, and stand in
finished records. The estimate is the larger of two: the arithmetic, 4 operations a frozen weight and token
(6 where it trains) at a share of the GPU's peak, and the launches of the kernels of a step that is not compiled.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from statistics import fmean

from lora2_bench.config.grid import expand_grid
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.suites import suites
from lora2_bench.files.arguments import OneLineParser, whole_number
from lora2_bench.paper.tables import table2

ENCODERS = {  # weights outside the embeddings, which multiply nothing; layers
    "minilm": (10.6e6, 6),
    "roberta_base": (85e6, 12),
    "roberta_large": (302e6, 24),
    "deberta_v3_base": (85e6, 12),
}
PEAK = 312e12  # an A100's in bf16, of its data sheet
SHARE = 0.25  # of it, chosen: rows of GLUE are short
TOKENS = 64  # a row's, padded within its batch; chosen
LAUNCHES, LAUNCH = 250, 10e-6  # kernels of a layer, forward and backward with its adapters, and seconds of each; chosen
SCORED = 64  # rows of a batch of dev: eval_batch_size, whatever the batch that trains
DEV_ROWS = {"cola": 1043, "sst2": 872, "mrpc": 408, "qqp": 40430, "stsb": 1500, "mnli": 19647, "qnli": 5463, "rte": 277}


def steps_of(cell: Cell) -> tuple[int, float]:
    """Training steps of a cell on GLUE's rows, and those that scoring dev is worth: a third of one for SCORED rows."""
    rows = cell.spec.rows["train"]
    steps, per_epoch = cell.train.total_steps(rows), cell.train.steps_per_epoch(rows)
    looks = sum(cell.train.evaluates(step, steps, per_epoch) for step in range(1, steps + 1))
    return steps, looks * math.ceil(DEV_ROWS[cell.task] / SCORED) / 3


def estimated(model: str, rows: int, *, full: bool) -> float:
    """Seconds of one step of `rows` rows, estimated as the docstring above says."""
    weights, layers = ENCODERS[model]
    arithmetic = (6 if full else 4) * weights * rows * TOKENS / (PEAK * SHARE)
    return max(arithmetic, layers * LAUNCHES * LAUNCH)


def printed(task: str) -> float:
    """LoRA²'s seconds in the paper's Table 2; the mean of its tasks for one that it lacks."""
    found = {name: float(time.lora2.text) for name, time in table2().items()}
    return found.get(task, fmean(found.values()))


def main() -> None:
    """Print the table."""
    parser = OneLineParser(prog="python scripts/study_cost.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", default="table1", help="the suite (default: table1)")
    parser.add_argument("--model", default="deberta_v3_base", choices=sorted(ENCODERS), help="the backbone")
    parser.add_argument("--seconds-per-step", type=float, help="as measured; without it an estimate")
    parser.add_argument(
        "--printed", action="store_true", help="LoRA²'s seconds in the paper's Table 2, for all methods"
    )
    parser.add_argument("--gpus", nargs="*", type=whole_number(1, 10**5), default=[1, 8, 64], help="default: 1 8 64")
    options = parser.read()
    if (suite := suites().get(options.suite)) is None:
        parser.stop(f"--suite {options.suite} is unknown: choose one of {', '.join(suites())}")
    if options.seconds_per_step is not None and not 0 < options.seconds_per_step < math.inf:
        parser.stop(f"--seconds-per-step {options.seconds_per_step} is not possible: give seconds")
    print("\n".join(table(suite.name, options)))


def table(name: str, options: argparse.Namespace) -> list[str]:
    """Lines of Markdown: a row a task, then the whole on each number of GPUs."""
    suite = suites()[name]
    params = {"row": ",".join(suite.rows), "task": ",".join(suite.tasks), "seed": "0"}
    overrides = [f"suite={suite.name}", f"model={options.model}"]
    cells: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, int] = defaultdict(int)
    for _, cell, _ in expand_grid(overrides, params):
        own, scoring = steps_of(cell)
        seconds = options.seconds_per_step
        if options.printed:
            seconds = printed(cell.task)
        elif seconds is None:
            seconds = estimated(options.model, cell.train.batch_size, full=cell.method["name"] == "full")
        cells[cell.task].append((own + scoring) * seconds / 3600)
        steps[cell.task] += own
    seeds = len(suite.seeds)
    lines = ["| task | cells | steps | GPU-hours | longest cell, hours |", "| --- | ---: | ---: | ---: | ---: |"]
    for task in suite.tasks:
        hours = cells[task]
        counts = f"{len(hours) * seeds} | {steps[task] * seeds:,}"
        lines.append(f"| {task} | {counts} | {sum(hours) * seeds:,.0f} | {max(hours):.1f} |")
    total, longest = seeds * sum(map(sum, cells.values())), max(map(max, cells.values()))
    counted = seeds * sum(map(len, cells.values()))
    lines += [f"| all | {counted} | {seeds * sum(steps.values()):,} | {total:,.0f} | {longest:.1f} |", ""]
    for gpus in options.gpus:
        lines.append(f"{gpus} GPU{'s' if gpus > 1 else ''}: {max(total / gpus, longest) / 24:.1f} days")
    told = "as measured" if options.seconds_per_step else "estimated for an A100"
    told = "as the paper prints them (LoRA², Table 2)" if options.printed else told
    return [*lines, "", f"{suite.name} on {options.model}, seconds per step {told}"]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
