"""Table 2 as `make bench` measures it: one step of every method on one machine, side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora2_bench.files.reading import Unreadable, read_json
from lora2_bench.paper.tables import table2
from lora2_bench.report.runs import machine_name
from lora2_bench.report.tables.render import Sheet, Text, write_sheets

SCHEMA = 1
_COMMAND = "python -m lora2_bench.bench"
_COLUMNS = ("machine", "size", "step", "seconds", "low", "high", "ratio", "ratio_low", "ratio_high", "parameters")


def write_bench(results: Path) -> list[Path]:
    """Write `results/tables/bench.{md,tex,csv}` from `results/bench/*.json`; nothing, and no old file, without any."""
    sheets: list[Sheet] = []
    lines: list[list[Any]] = []
    for path in sorted((results / "bench").glob("*.json")):
        try:
            run = read_json(path)
            if run["schema"] != SCHEMA:
                raise ValueError(f"schema {run['schema']}, not {SCHEMA}")
            found = [_sheet(run, size) for size in run["sizes"]], _csv_lines(path.stem, run)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = str(error) if type(error) in (ValueError, Unreadable) else "not written by make bench"
            print(f"warning: {path} is skipped: {reason}", file=sys.stderr)
            continue
        sheets += found[0]
        lines += found[1]
    return write_sheets(results / "tables", "bench", sheets, _COLUMNS, lines)


def _sheet(run: Mapping[str, Any], name: str) -> Sheet:
    size, hardware = run["sizes"][name], run["hardware"]
    machine = machine_name(hardware)
    layers = f", {size['layers']} layers" if size["layers"] else ""
    lines = []
    for step, found in size["steps"].items():
        share = "" if found["ratio"]["median"] == 1 else f"{found['ratio']['median']:.3f}"
        lines.append(
            [
                Text(step),
                Text(f"{1000 * found['seconds']['median']:.1f}"),
                Text(_quartiles(found["seconds"], 1000, 1)),
                Text(share),
                Text(_quartiles(found["ratio"], 1, 3) if share else ""),
                Text(f"{found['parameters']:,}"),
            ]
        )
    pairs = [[Text(f"{pair['one']} / {pair['other']}"), Text(), Text(), Text(f"{pair['ratio']['median']:.3f}"),
              Text(_quartiles(pair["ratio"], 1, 3)), Text()] for pair in size["pairs"]]  # fmt: skip
    printed = [float(one.lora2.value / one.adalora.value) for one in table2().values()]
    return Sheet(
        f"Layout of Table 2: milliseconds per training step, {name}{layers}, batch {size['rows']} × {size['length']}",
        ["step", "median", "quartiles", "ratio", "quartiles", "adapter parameters"],
        1,
        [*lines, *pairs],
        frozenset({len(lines)}),
        [
            f"{machine}, {run['precision']}, {size['rounds']} rounds in one process, each step once a round in a new "
            "order; ratios are taken within a round, to the frozen backbone where no other is named. Steps include "
            "penalty, clipping, optimiser, scores and masks; weights are random.",
            f"The paper prints LoRA² / AdaLoRA as {min(printed):.2f} to {max(printed):.2f}, by task.",
        ],
        [_COMMAND],
    )


def _quartiles(spread: Mapping[str, Any], scale: float, digits: int) -> str:
    low, high = (f"{scale * end:.{digits}f}" for end in spread["quartiles"])
    return f"{low}–{high}"


def _csv_lines(host: str, run: Mapping[str, Any]) -> list[list[Any]]:
    def of(spread: Mapping[str, Any]) -> list[str]:
        return [f"{value:.6f}" for value in (spread["median"], *spread["quartiles"])]

    return [
        [host, name, step, *of(found["seconds"]), *of(found["ratio"]), found["parameters"]]
        for name, size in run["sizes"].items()
        for step, found in size["steps"].items()
    ]
