"""Runs -> what each figure shows, as plain numbers. Drawing them is another module's work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev

from lora2_bench.report.figures.chart import Curve, Mean, Panel, Plot
from lora2_bench.report.runs import XY, Run, grouped
from lora2_bench.report.selection import Selection
from lora2_bench.tasks.spec import in_order

SCORE = "score (100 × metric)"
PROTOCOL_NAMES = {
    "paper": "best dev score (protocol paper)",
    "last": "last dev score (protocol last)",
    "clean": "dev score, checkpoint chosen on held-out rows (protocol clean)",
}
METRIC_NAMES = {"matthews_correlation": "Matthews", "pearson": "Pearson"}
CELL_PROTOCOLS = ("paper", "clean")  # `last` is read off the cells of `paper`
SETTINGS_NOTE = "Only runs that count in the tables: on their recipe and not stale."
COST_NOTE = f"Mean ± sd over n seeds; dotted line: Pareto front of the means. {SETTINGS_NOTE}"


def plots(selection: Selection) -> list[Plot]:
    """Every figure that there are runs for, folder by folder: cost, learning curves, lr, ranks.

    All but the figure of learning rates show the runs that count in the tables (`Selection.shown`).
    """
    made: list[Plot] = []
    chosen, every = by_protocol(selection.shown()), by_protocol(selection.finished)
    order = list(PROTOCOL_NAMES)
    for folder, protocol in sorted(every, key=lambda key: (key[0], order.index(key[1]))):
        runs = chosen.get((folder, protocol), [])
        if runs:
            made += _against_parameters(folder, protocol, runs)
            made += _against_seconds(folder, protocol, runs)
        made += _learning_rates(folder, protocol, every[folder, protocol], selection)
        if protocol in CELL_PROTOCOLS:
            made += _learning_curves(folder, protocol, runs)
            made += _ranks(folder, protocol, runs)
    return made


def by_protocol(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """(folder, protocol that a run has a score for) -> runs."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        for protocol in run.scores:
            found.setdefault((run.folder, protocol), []).append(run)
    return found


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


def _by_task(rows: Iterable[Run]) -> dict[str, list[Run]]:
    groups = grouped(rows, "task")
    return {task: groups[task] for task in in_order(groups)}


def panel_title(rows: Sequence[Run]) -> str:
    """The rows' task with its metric."""
    metric = rows[0].metric
    return f"{rows[0].record.spec.folder}, {METRIC_NAMES.get(metric, metric)}"


def _title(what: str, folder: str, protocol: str) -> str:
    return f"{what}: {folder}, {PROTOCOL_NAMES[protocol]}"


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _against_parameters(folder: str, protocol: str, rows: Sequence[Run]) -> list[Plot]:
    able = [run for run in rows if run.parameters["adapter"]]  # a logarithmic axis has no 0
    if not able:
        return []
    left = " Not in it: methods that train the head alone." if len(able) < len(rows) else ""
    plot = Plot(
        folder=folder,
        name=f"parameters-{protocol}",
        title=_title("Score against adapter parameters", folder, protocol),
        note=f"{COST_NOTE} Points at almost one x are set side by side.{left}",
        protocol=protocol,
        panels=_cost_panels(protocol, able, lambda run: run.parameters["adapter"]),
        x_label="trainable adapter parameters (head left out)",
        y_label=SCORE,
        log_x=True,
    )
    return [plot]


def _against_seconds(folder: str, protocol: str, rows: Sequence[Run]) -> list[Plot]:
    """One figure per machine: seconds of two machines are not to be compared."""
    machines = grouped((run for run in rows if run.seconds_per_step), "machine")
    made = []
    for number, (machine, part) in enumerate(machines.items(), 1):
        seconds = [run.seconds_per_step or 0.0 for run in part]
        made.append(
            Plot(
                folder=folder,
                name=f"seconds-{protocol}" + (f"-{number}" if len(machines) > 1 else ""),
                title=_title("Score against seconds per step", folder, protocol),
                note=f"Machine: {machine}. {COST_NOTE}",
                protocol=protocol,
                panels=_cost_panels(protocol, part, lambda run: run.seconds_per_step or 0.0),
                x_label="seconds per training step",
                y_label=SCORE,
                log_x=max(seconds) > 8 * min(seconds),
            )
        )
    return made


def _cost_panels(protocol: str, rows: Sequence[Run], cost: Callable[[Run], float]) -> tuple[Panel, ...]:
    by_task = _by_task(rows)
    panels = []
    if len(by_task) > 1:
        means = _means_over_tasks(protocol, rows, cost, list(by_task))
        if len(means) > 1:
            panels.append(means_panel(f"mean of {len(by_task)} tasks", means))
    for part in by_task.values():
        means = []
        for label, group in grouped(part, "label").items():
            values = [run.scores[protocol] for run in group]
            means.append(Mean(label, fmean(map(cost, group)), fmean(values), _sd(values), len(values)))
        panels.append(means_panel(panel_title(part), means))
    return tuple(panels)


def means_panel(title: str, means: Sequence[Mean]) -> Panel:
    """A panel of points, with their seeds in its title and their Pareto front."""
    seeds = sorted({one.n for one in means})
    counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return Panel(f"{title} (n = {counts})", tuple(means), pareto_front((one.x, one.y) for one in means))


def _means_over_tasks(
    protocol: str, rows: Iterable[Run], cost: Callable[[Run], float], tasks: Sequence[str]
) -> list[Mean]:
    """Per method the mean over all tasks, of the seeds that have each; methods without such a seed are left out."""
    means = []
    for label, group in grouped(rows, "label").items():
        complete = [one for one in grouped(group, "seed").values() if {run.task for run in one} == set(tasks)]
        per_seed = [fmean(run.scores[protocol] for run in one) for one in complete]
        if per_seed:
            x = fmean(cost(run) for one in complete for run in one)
            means.append(Mean(label, x, fmean(per_seed), _sd(per_seed), len(per_seed)))
    return means


def _learning_curves(folder: str, protocol: str, rows: Sequence[Run]) -> list[Plot]:
    panels = []
    for part in _by_task(rows).values():
        if any(len(run.curve) > 1 for run in part):
            curves = [_curve(label, [run.curve for run in group]) for label, group in grouped(part, "label").items()]
            panels.append(Panel(panel_title(part), curves=tuple(curves)))
    if not panels:
        return []
    where = "dev" if protocol == "paper" else "held-out train rows"
    note = f"Thin: one seed; bold: their mean, where all have an evaluation. {SETTINGS_NOTE}"
    title = f"Learning curves on {where}: {folder}, protocol {protocol}"
    return [Plot(folder, f"learning-{protocol}", title, note, protocol, tuple(panels), "epochs", SCORE)]


def _curve(label: str, seeds: Sequence[tuple[XY, ...]]) -> Curve:
    """The lines of several seeds with their mean at the x that all of them have."""
    lines = [dict(line) for line in seeds]
    shared = sorted(set.intersection(*map(set, lines)))
    return Curve(label, tuple(seeds), tuple((x, fmean(line[x] for line in lines)) for x in shared))


def _learning_rates(folder: str, protocol: str, rows: Sequence[Run], selection: Selection) -> list[Plot]:
    """Score over lr for every method that was run at several lr and is otherwise the same; stale runs left out."""
    fresh = [run for run in rows if run.id not in selection.stale]
    panels = []
    for part in _by_task(fresh).values():
        curves = []
        for label, every in grouped(part, "label").items():
            group = max(grouped(every, "without_lr").values(), key=_breadth)
            if len({run.lr for run in group}) > 1:
                curves.append(_over_learning_rates(label, protocol, group))
        if curves:
            panels.append(Panel(panel_title(part), curves=tuple(curves)))
    if not panels:
        return []
    note = "Thin: one seed; bold: mean over seeds. Only seeds run at every lr of a line count, where there are any. "
    note += "All other settings are equal within a line. "
    note += "Runs off the recipe are in it, which no table and no other figure counts."
    title = _title("Score against learning rate", folder, protocol)
    return [Plot(folder, f"lr-{protocol}", title, note, protocol, tuple(panels), "learning rate", SCORE, log_x=True)]


def _breadth(group: Sequence[Run]) -> tuple[int, bool]:
    """What makes one of several settings that differ in more than the lr the one to show: most lr, then the recipe."""
    return len({run.lr for run in group}), any(not run.obstacles for run in group)


def _over_learning_rates(label: str, protocol: str, rows: Sequence[Run]) -> Curve:
    """Seeds that were run at every lr, so that no mean stands on other seeds than the next; all where none was."""
    rates = {run.lr for run in rows}
    seeds = grouped(rows, "seed")
    complete = [group for group in seeds.values() if {run.lr for run in group} == rates] or list(seeds.values())
    lines = tuple(tuple(sorted((run.lr, run.scores[protocol]) for run in group)) for group in complete)
    by_lr = grouped((run for group in complete for run in group), "lr")
    means = tuple((lr, fmean(run.scores[protocol] for run in group)) for lr, group in by_lr.items())
    return Curve(label, lines, means)


def _ranks(folder: str, protocol: str, rows: Iterable[Run]) -> list[Plot]:
    """One figure per method that gave up ranks, one panel per task; the paper's Figure 3."""
    made = []
    names: set[str] = set()
    for label, group in grouped((run for run in rows if run.ranks), "label").items():
        panels = [
            _heat_map(part[0].record.spec.folder, [run.ranks for run in part if run.ranks])
            for part in _by_task(group).values()
        ]
        values = {value for panel in panels for row in panel.values for value in row if value is not None}
        top = round(max(*values, *(run.full_rank for run in group), 1))
        if values == {top}:
            continue
        name = f"ranks-{protocol}-{slug(label)}"
        while name in names:
            name += "-"
        names.add(name)
        what, note = f"Ranks kept by {label}", f"At the end of training; mean over seeds. {SETTINGS_NOTE}"
        if (limit := group[0].rank_limit) is not None and limit < top:
            what = f"Entries of E kept by {label}"
            note = f"Not ranks: an update of {label} has rank {limit} at most, whatever is kept. {note}"
        title = f"{what}: {folder}, protocol {protocol}"
        made.append(Plot(folder, name, title, note, protocol, tuple(panels), "layer", "map", top=top))
    return made


def _heat_map(task: str, kept: Sequence[Mapping[str, Mapping[str, int]]]) -> Panel:
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
