"""How a training step's cost grows with rank, rows, length and layers.

Run on an idle machine: python scripts/bench_scale.py [FOLDER]. It writes scale.json, scale.svg and scale.png to FOLDER
(default: results/bench). MiniLM's sizes, random weights, one thing varied at a time from 6 layers and 16 rows of 64
tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lora2_bench.bench.cases import make_cases
from lora2_bench.bench.names import BASELINE
from lora2_bench.bench.sizes import SIZES, Size
from lora2_bench.bench.timing import Spread, ratio, time_steps, to_json
from lora2_bench.files.writing import write_bytes, write_json
from lora2_bench.report.figures.chart import Curve, Panel, Plot, styles
from lora2_bench.report.figures.drawing import draw
from lora2_bench.training.machine import hardware
from lora2_bench.training.runtime import set_up_process

ROUNDS, WARM_UP = 7, 2
BASE = replace(SIZES["minilm"], rows=16)
COMPARED = ("lora2 k=1", "lora2 k=8", "lora r=8", "peft lora r=8")
AXES: dict[str, tuple[int, ...]] = {
    "rank": (1, 2, 4, 8, 16),
    "rows": (4, 8, 16, 32),
    "length": (16, 32, 64, 128),
    "layers": (1, 2, 4, 6),
}
TITLES = {"rank": "Rank (k or r)", "rows": "Rows", "length": "Tokens of a row", "layers": "Layers"}


def measure(size: Size, layers: int | None, names: Sequence[str]) -> dict[str, Any]:
    """Name -> milliseconds and ratio to the frozen backbone."""
    made, _ = make_cases(size, layers, [BASELINE, *names], "cpu", "fp32")
    seconds = time_steps(made, ROUNDS, WARM_UP, "cpu")
    return {
        name: {"seconds": to_json(Spread.of(seconds[name])), "ratio": to_json(ratio(seconds, name, BASELINE))}
        for name in seconds
    }


def point(axis: str, value: int) -> dict[str, Any]:
    """One point of one axis; of the rank axis every case has that rank, called by its method alone."""
    if axis == "rank":
        names = [f"lora2 k={value}", f"lora r={value}", f"peft lora r={value}"]
        found = measure(BASE, None, names)
        return {name.rpartition(" ")[0] if name != BASELINE else name: numbers for name, numbers in found.items()}
    if axis == "layers":
        return measure(BASE, value, COMPARED)
    size = replace(BASE, rows=value) if axis == "rows" else replace(BASE, length=value)
    return measure(size, None, COMPARED)


def figure(scale: dict[str, Any], machine: str) -> Plot:
    """One panel per axis: the ratio to the frozen backbone."""
    panels = []
    for axis, points in scale.items():
        labels = [name for name in next(iter(points.values())) if name != BASELINE]
        curves = []
        for label in labels:
            line = tuple((float(value), found[label]["ratio"]["median"]) for value, found in points.items())
            curves.append(Curve(label, (), line))
        panels.append(Panel(TITLES[axis], curves=tuple(curves)))
    return Plot(
        folder="",
        name="scale",
        title="A training step's cost over the frozen backbone's own",
        note=f"MiniLM's widths, {BASE.rows} rows of {BASE.length} tokens and 6 layers where not varied; medians of "
        f"{ROUNDS} rounds; {machine}",
        protocol="",
        panels=tuple(panels),
        x_label="",
        y_label="ratio",
        log_x=True,
    )


def main() -> None:
    """Measure, print, write."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("results/bench")
    folder.mkdir(parents=True, exist_ok=True)
    set_up_process(None)
    scale: dict[str, Any] = {}
    for axis, values in AXES.items():
        for value in values:
            found = point(axis, value)
            scale.setdefault(axis, {})[value] = found
            shown = [f"{name} {numbers['ratio']['median']:.3f}" for name, numbers in found.items() if name != BASELINE]
            print(
                f"{axis} {value}: {1000 * found[BASELINE]['seconds']['median']:.0f} ms; {', '.join(shown)}", flush=True
            )
    about = hardware("cpu")
    write_json(folder / "scale.json", {"hardware": about, "steps": scale})
    plot = figure(scale, f"{about['processor']}, {torch.get_num_threads()} threads")
    svg, png = draw(plot, styles(plot.labels()))
    write_bytes(folder / "scale.svg", svg)
    write_bytes(folder / "scale.png", png)
    print(f"written: {folder / 'scale.json'}, scale.svg, scale.png")


if __name__ == "__main__":
    main()
