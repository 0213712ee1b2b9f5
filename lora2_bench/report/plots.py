"""Stored records -> what each figure shows, as plain numbers. Drawing them is another module's work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from lora2_bench.cell import canonical
from lora2_bench.record import Record
from lora2_bench.report.aggregate import GROUP, scores
from lora2_bench.tasks.spec import TASKS

XY = tuple[float, float]
PROTOCOL_NAMES = {
    "paper": "best dev score (protocol paper)",
    "last": "last dev score (protocol last)",
    "clean": "dev score, checkpoint chosen on held-out rows (protocol clean)",
}
METRIC_NAMES = {"matthews_correlation": "Matthews", "pearson": "Pearson"}
CELL_PROTOCOLS = ("paper", "clean")  # `last` is read off the cells of `paper`
SETTINGS_NOTE = "Of several settings of one method: the one on its recipe, then the one with most seeds."


@dataclass(frozen=True)
class Mean:
    """A point: `x`, the mean over seeds `y` with its standard deviation (None for one seed), and the seeds."""

    label: str
    x: float
    y: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Curve:
    """One thin line per seed and their mean, over the x that all seeds have."""

    label: str
    seeds: tuple[tuple[XY, ...], ...]
    mean: tuple[XY, ...]


@dataclass(frozen=True)
class Panel:
    """What is drawn for one task.

    Attributes:
        title: of the panel.
        means: points with error bars; `front` is their Pareto front (cheaper to dearer).
        curves: lines over an x axis.
        rows: names of the heat map's rows (maps), and `columns` (layers, from 1); `values` is rows × columns, None
            where a layer has no such map.
    """

    title: str
    means: tuple[Mean, ...] = ()
    front: tuple[XY, ...] = ()
    curves: tuple[Curve, ...] = ()
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    values: tuple[tuple[float | None, ...], ...] = ()


@dataclass(frozen=True)
class Plot:
    """One figure.

    Attributes:
        folder: `<backbone>-<data>`.
        name: of its files.
        title: says backbone, data and protocol.
        note: how to read it.
        protocol: `paper`, `last` or `clean`.
        panels: one per task.
        x_label: with its unit; `y_label` likewise.
        log_x: whether x is logarithmic.
        top: the rank that every map of a heat map started with, 0 for any other figure.
    """

    folder: str
    name: str
    title: str
    note: str
    protocol: str
    panels: tuple[Panel, ...]
    x_label: str
    y_label: str
    log_x: bool = False
    top: int = 0


def plots(records: Sequence[Record]) -> list[Plot]:
    """Every figure that the records have data for, folder by folder: cost, learning curves, lr, ranks."""
    frame = _with_facts(scores(records), records)
    made: list[Plot] = []
    for (model, data), part in frame.groupby(["model", "data"], sort=True):
        folder = f"{model}-{data}"
        chosen = main_settings(part)
        for protocol in PROTOCOL_NAMES:
            rows = chosen[chosen["protocol"] == protocol]
            if rows.empty:
                continue
            made.append(_against_parameters(folder, protocol, rows))
            made += _against_seconds(folder, protocol, rows)
            made += _learning_rates(folder, protocol, part[part["protocol"] == protocol])
            if protocol in CELL_PROTOCOLS:
                made += _learning_curves(folder, protocol, rows)
                made += _ranks(folder, protocol, rows)
    return made


def main_settings(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of one setting per backbone, data, protocol, method and task: uncut first, then the most seeds."""
    counts = frame.groupby(GROUP, sort=True).size().rename("n").reset_index()
    counts = counts.assign(is_cut=counts["cut"] != "", few=-counts["n"])
    names = ["model", "data", "protocol", "method", "task"]
    order = counts.sort_values([*names, "is_cut", "few", "cut", "science"])
    return frame.merge(order.drop_duplicates(names)[GROUP], on=GROUP)


def slug(text: str) -> str:
    """`text` as part of a file name: letters, digits, dots and dashes."""
    return re.sub(r"[^\w.]+", "-", text.replace("=", ""), flags=re.ASCII).strip("-.") or "unnamed"


def pareto_front(points: Iterable[XY]) -> tuple[XY, ...]:
    """The points that no other one beats: none with x as small or smaller scores as high or higher."""
    front: list[XY] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return tuple(front)


def _with_facts(frame: pd.DataFrame, records: Iterable[Record]) -> pd.DataFrame:
    """`frame` with its records' evaluations (epoch, score), ranks, lr, seconds per step and machine."""
    facts = [_facts(record) for record in records if record.is_done]
    names = ["id", "curve", "ranks", "full_rank", "lr", "without_lr", "seconds", "machine"]
    found = pd.DataFrame(facts, columns=names).drop_duplicates("id")
    return frame.merge(found, on="id", how="left")


def _facts(record: Record) -> tuple[Any, ...]:
    cell, result, run = record.cell, record.result, record.run
    epochs_per_step = result["epochs"] / result["steps"]
    curve = tuple((one["step"] * epochs_per_step, 100 * one["score"]) for one in result["evaluations"])
    rest = {name: value for name, value in cell.items() if name not in ("seed", "task", "train")}
    rest["train"] = {name: value for name, value in cell["train"].items() if name != "lr"}
    cuts = [cut for cut in record.cut if not cut.startswith("train.lr=")]
    key = json.dumps([cuts, canonical(rest)], sort_keys=True)
    ranks = result.get("ranks")
    full = result["ranks_initial"] / sum(len(layer) for layer in ranks.values()) if ranks else 0
    hardware = run.get("hardware") or {}
    machine = hardware.get("gpu") or hardware.get("processor") or "unknown machine"
    if not hardware.get("gpu") and hardware.get("threads"):
        machine += f", {hardware['threads']} thread" + "s" * (hardware["threads"] != 1)
    return record.id, curve, ranks, full, cell["train"]["lr"], key, run.get("seconds_per_step"), machine


def _tasks(frame: pd.DataFrame) -> list[str]:
    return [task for task in TASKS if task in set(frame["task"])]


def _panel_title(task: str, rows: pd.DataFrame) -> str:
    metric = str(rows["metric"].iloc[0])
    return f"{TASKS[task].folder}, {METRIC_NAMES.get(metric, metric)}"


def _title(what: str, folder: str, protocol: str) -> str:
    return f"{what}: {folder}, {PROTOCOL_NAMES[protocol]}"


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _against_parameters(folder: str, protocol: str, rows: pd.DataFrame) -> Plot:
    return Plot(
        folder=folder,
        name=f"parameters-{protocol}",
        title=_title("Score against adapter parameters", folder, protocol),
        note=f"{_cost_note()} Points at almost one x are set side by side.",
        protocol=protocol,
        panels=_cost_panels(rows, "adapter"),
        x_label="trainable adapter parameters (head left out)",
        y_label="score (100 × metric)",
        log_x=True,
    )


def _against_seconds(folder: str, protocol: str, rows: pd.DataFrame) -> list[Plot]:
    """One figure per machine: seconds of two machines are not to be compared."""
    timed = rows[rows["seconds"].notna()]
    machines = list(timed.groupby("machine", sort=True))
    return [
        Plot(
            folder=folder,
            name=f"seconds-{protocol}" + (f"-{number}" if len(machines) > 1 else ""),
            title=_title("Score against seconds per step", folder, protocol),
            note=f"Machine: {machine}. {_cost_note()}",
            protocol=protocol,
            panels=_cost_panels(part, "seconds"),
            x_label="seconds per training step",
            y_label="score (100 × metric)",
            log_x=part["seconds"].max() > 8 * part["seconds"].min() > 0,
        )
        for number, (machine, part) in enumerate(machines, 1)
    ]


def _cost_note() -> str:
    return f"Mean ± sd over n seeds; dotted line: Pareto front of the means. {SETTINGS_NOTE}"


def _cost_panels(rows: pd.DataFrame, cost: str) -> tuple[Panel, ...]:
    tasks = _tasks(rows)
    panels = []
    if len(tasks) > 1:
        means = _means_over_tasks(rows, cost, tasks)
        if len(means) > 1:
            panels.append(_means_panel(f"mean of {len(tasks)} tasks", means))
    for task in tasks:
        part = rows[rows["task"] == task]
        means = tuple(
            Mean(str(label), float(group[cost].mean()), fmean(group["score"]), _sd(list(group["score"])), len(group))
            for label, group in part.groupby("method", sort=True)
        )
        panels.append(_means_panel(_panel_title(task, part), means))
    return tuple(panels)


def _means_panel(title: str, means: tuple[Mean, ...]) -> Panel:
    seeds = sorted({one.n for one in means})
    counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return Panel(f"{title} (n = {counts})", means, pareto_front((one.x, one.y) for one in means))


def _means_over_tasks(rows: pd.DataFrame, cost: str, tasks: list[str]) -> tuple[Mean, ...]:
    """Per method the mean over all tasks, of the seeds that have each; methods without such a seed are left out."""
    found = []
    for label, group in rows.groupby("method", sort=True):
        table = group.pivot_table(index="seed", columns="task", values="score", aggfunc="mean").reindex(columns=tasks)
        per_seed = table.dropna().mean(axis=1).tolist()
        if per_seed:
            x = float(group.groupby("task")[cost].mean().mean())
            found.append(Mean(str(label), x, fmean(per_seed), _sd(per_seed), len(per_seed)))
    return tuple(found)


def _learning_curves(folder: str, protocol: str, rows: pd.DataFrame) -> list[Plot]:
    panels = []
    for task in _tasks(rows):
        part = rows[rows["task"] == task]
        curves = tuple(_curve(str(label), list(group["curve"])) for label, group in part.groupby("method", sort=True))
        if any(len(line) > 1 for curve in curves for line in curve.seeds):
            panels.append(Panel(_panel_title(task, part), curves=curves))
    if not panels:
        return []
    where = "dev" if protocol == "paper" else "held-out train rows"
    note = f"Thin: one seed; bold: their mean, where all have an evaluation. {SETTINGS_NOTE}"
    title = f"Learning curves on {where}: {folder}, protocol {protocol}"
    y_label = "score (100 × metric)"
    return [Plot(folder, f"learning-{protocol}", title, note, protocol, tuple(panels), "epochs", y_label)]


def _curve(label: str, seeds: list[tuple[XY, ...]]) -> Curve:
    """The lines of several seeds with their mean at the x that all of them have."""
    shared = set.intersection(*({x for x, _ in line} for line in seeds))
    by_x: dict[float, list[float]] = {x: [] for x in sorted(shared)}
    for line in seeds:
        for x, y in line:
            if x in by_x:
                by_x[x].append(y)
    return Curve(label, tuple(seeds), tuple((x, fmean(values)) for x, values in by_x.items()))


def _learning_rates(folder: str, protocol: str, rows: pd.DataFrame) -> list[Plot]:
    """Score over lr for every method that was run at several lr and is otherwise the same."""
    panels = []
    for task in _tasks(rows):
        part = rows[rows["task"] == task]
        best: dict[str, pd.DataFrame] = {}  # of several such settings, the one with most lr
        for (label, _), group in part.groupby(["method", "without_lr"], sort=True):
            if group["lr"].nunique() > max(1, best[label]["lr"].nunique() if label in best else 1):
                best[str(label)] = group
        curves = []
        for label, every in best.items():
            group = _seeds_of_every_lr(every)
            lines = [
                tuple(sorted(zip(one["lr"], one["score"], strict=True))) for _, one in group.groupby("seed", sort=True)
            ]
            by_lr = group.groupby("lr", as_index=False)["score"].mean()
            mean = tuple(zip(by_lr["lr"].tolist(), by_lr["score"].tolist(), strict=True))
            curves.append(Curve(label, tuple(lines), mean))
        if curves:
            panels.append(Panel(_panel_title(task, part), curves=tuple(curves)))
    if not panels:
        return []
    note = "Thin: one seed; bold: mean over seeds. Only seeds run at every lr of a line count, where there are any. "
    note += "All other settings are equal within a line."
    title = _title("Score against learning rate", folder, protocol)
    y_label = "score (100 × metric)"
    return [Plot(folder, f"lr-{protocol}", title, note, protocol, tuple(panels), "learning rate", y_label, log_x=True)]


def _seeds_of_every_lr(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of seeds that were run at every lr, so that no mean stands on other seeds; all rows without such."""
    per_seed = rows.groupby("seed")["lr"].transform("nunique")
    shared = rows[per_seed == rows["lr"].nunique()]
    return rows if shared.empty else shared


def _ranks(folder: str, protocol: str, rows: pd.DataFrame) -> list[Plot]:
    """One figure per method that gave up ranks, one panel per task; the paper's Figure 3."""
    made = []
    names: set[str] = set()
    for label, group in rows[rows["ranks"].notna()].groupby("method", sort=True):
        panels = []
        for task in _tasks(group):
            panels.append(_heat_map(TASKS[task].folder, list(group[group["task"] == task]["ranks"])))
        top = round(group["full_rank"].max())
        if all(value in (None, top) for panel in panels for row in panel.values for value in row):
            continue
        name = f"ranks-{protocol}-{slug(str(label))}"
        while name in names:
            name += "-"
        names.add(name)
        title = f"Ranks kept by {label}: {folder}, protocol {protocol}"
        note = f"Mean over seeds. {SETTINGS_NOTE}"
        made.append(Plot(folder, name, title, note, protocol, tuple(panels), "layer", "map", top=top))
    return made


def _heat_map(task: str, kept: list[dict[str, dict[str, int]]]) -> Panel:
    layers = sorted({layer for ranks in kept for layer in ranks}, key=int)
    maps = list(dict.fromkeys(name for ranks in kept for layer in ranks.values() for name in layer))
    values = tuple(
        tuple(
            fmean(found) if (found := [ranks[at][name] for ranks in kept if name in ranks.get(at, {})]) else None
            for at in layers
        )
        for name in maps
    )
    seeds = f"{len(kept)} seed" + "s" * (len(kept) != 1)
    columns = tuple(str(int(layer) + 1) for layer in layers)
    return Panel(f"{task} ({seeds})", rows=tuple(maps), columns=columns, values=values)
