"""`python -m lora2_bench.bench`: seconds per training step, beside the frozen backbone's own and PEFT's."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from lora2_bench.bench import cases
from lora2_bench.bench.sizes import SIZES
from lora2_bench.bench.timing import Spread, ratio, time_steps, to_json
from lora2_bench.files.writing import write_json
from lora2_bench.training.machine import hardware, peak_memory, versions
from lora2_bench.training.runtime import set_up_process

SCHEMA = 1


def main() -> None:
    """The command-line entry point."""
    arguments = _arguments()
    set_up_process(arguments.threads)
    transformers.logging.set_verbosity_error()
    path = arguments.results / "bench" / f"{platform.node() or 'host'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
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
                "ratio": to_json(ratio(seconds, one.name, cases.BASELINE)),
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lora2_bench.bench",
        description="Time one training step of every method and engine, of PEFT's LoRA and AdaLoRA, and of the frozen "
        "backbone, interleaved, and print the ratios. Weights are random: they do not change what a step costs.",
    )
    parser.add_argument("--sizes", default="minilm", help=f"some of {','.join(SIZES)} (default: minilm)")
    parser.add_argument("--layers", type=int, help="layers of each encoder (default: all)")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each that count (default: 15)")
    parser.add_argument("--warm-up", type=int, default=3, help="steps of each before them (default: 3)")
    parser.add_argument("--only", default="", help="some cases, by parts of their names, with commas")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: by autocast")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where bench/HOST.json is written")
    arguments = parser.parse_args()
    for name in ("layers", "rounds", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            _exit_with_error(f"--{name} {value} is not possible: give at least 1")
    if arguments.warm_up < 0:
        _exit_with_error(f"--warm-up {arguments.warm_up} is not possible: give at least 0")
    arguments.sizes = arguments.sizes.split(",")
    if unknown := [name for name in arguments.sizes if name not in SIZES]:
        _exit_with_error(f"--sizes {unknown[0]} is unknown: give some of {', '.join(SIZES)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        _exit_with_error("--device cuda: torch finds no GPU here: give cpu, or auto")
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = [part for part in arguments.only.split(",") if part]
    chosen = [name for name in cases.names() if not parts or any(part in name for part in parts)]
    if not chosen:
        _exit_with_error(f"--only {arguments.only} is in no name: give parts of {', '.join(cases.names())}")
    arguments.only = [cases.BASELINE, *(name for name in chosen if name != cases.BASELINE)]
    return arguments


def _exit_with_error(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
