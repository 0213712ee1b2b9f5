"""The benchmark itself: each size measured, printed and written down."""

from __future__ import annotations

import argparse
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import transformers

from lora2_bench.bench import cases
from lora2_bench.bench.names import BASELINE
from lora2_bench.bench.sizes import SIZES
from lora2_bench.bench.timing import Spread, ratio, time_steps, to_json
from lora2_bench.files.writing import write_json
from lora2_bench.training.machine import hardware, peak_memory, versions
from lora2_bench.training.runtime import set_up_process

SCHEMA = 1


def measure(arguments: argparse.Namespace) -> None:
    """Measure the sizes and cases that the options name; the file is written after each size."""
    set_up_process(arguments.threads)
    transformers.logging.set_verbosity_error()
    path = arguments.results / "bench" / f"{platform.node() or 'host'}.json"
    how = {"hardware": hardware(arguments.device), "versions": versions(), "precision": arguments.precision}
    measured = _earlier_sizes(path, how)
    for name in arguments.sizes:
        measured[name] = _measure(name, arguments)
        print(_table(name, measured[name]), flush=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        memory = peak_memory(arguments.device)
        write_json(path, {"schema": SCHEMA, "finished": now, **how, "memory": memory, "sizes": measured})
    print(f"written: {path}")


def _earlier_sizes(path: Path, how: dict[str, Any]) -> dict[str, Any]:
    """Sizes that an earlier run wrote to `path`. A file of another set-up is renamed after its time, not replaced."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] == SCHEMA and {name: found[name] for name in how} == how:
            return dict(found["sizes"])
        path.replace(path.with_stem(f"{path.stem}-{found['finished'].replace(':', '')}"))
    except (OSError, ValueError, LookupError, TypeError):
        pass  # no file, or another program's
    return {}


def _measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    size = SIZES[name]
    made, weights = cases.make_cases(size, arguments.layers, arguments.only, arguments.device, arguments.precision)
    seconds = time_steps(made, arguments.rounds, arguments.warm_up, arguments.device)
    pairs = [(one, other) for one, other in cases.PAIRS if one in seconds and other in seconds]
    return {
        "weights": weights,
        "layers": arguments.layers,
        "rows": size.rows,
        "length": size.length,
        "rounds": arguments.rounds,
        "steps": {
            one.name: {
                "parameters": one.parameters,
                "seconds": to_json(Spread.of(seconds[one.name])),
                "ratio": to_json(ratio(seconds, one.name, BASELINE)),
            }
            for one in made
        },
        "pairs": [{"one": one, "other": other, "ratio": to_json(ratio(seconds, one, other))} for one, other in pairs],
    }


def _table(name: str, found: dict[str, Any]) -> str:
    def of(spread: dict[str, Any], scale: float = 1.0) -> str:
        low, high = spread["quartiles"]
        return f"{scale * spread['median']:9.3f} ({scale * low:.3f}–{scale * high:.3f})"

    layers = f", {found['layers']} layers" if found["layers"] else ""
    lines = [f"{name}{layers}: batch {found['rows']} × {found['length']}, {found['rounds']} rounds, median (quartiles)"]
    lines.append(f"{'':24}{'ms per step':>28}{'of the frozen backbone':>26}{'parameters':>14}")
    for case, row in found["steps"].items():
        ms, share = of(row["seconds"], 1000), of(row["ratio"])
        lines.append(f"{case:24}{ms:>28}{share:>26}{row['parameters']:>14,}")
    lines += [f"{pair['one']} / {pair['other']}:{of(pair['ratio'])}" for pair in found["pairs"]]
    return "\n".join(lines) + "\n"
