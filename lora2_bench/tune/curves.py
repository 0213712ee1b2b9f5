"""The expected best score after n trials and after s seconds, and the score over the learning rate: CSV and figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lora2_bench.files.writing import write_bytes, write_text
from lora2_bench.records.record import Record
from lora2_bench.report.figures.chart import Curve, Forest, Mean, Panel, Plot, is_drawn, styles
from lora2_bench.report.statistics.search import expected_best, spread_of_best
from lora2_bench.tune.cost import step_seconds
from lora2_bench.tune.ledger import DRAW, RECIPE, Begun, Folder, RunCell, Trial, processor_of, score_of
from lora2_bench.tune.names import label_of

_COLUMNS = ("task", "row", "n", "seconds", "expected", "sd", "draws", "recipe")
_METRIC = "100 × the task's metric, held-out rows of train"


@dataclass(frozen=True)
class Point:
    """The best of `n` draws: its mean and standard deviation in points, and the seconds that n trials take.

    All are rounded as curves.csv shows them: a last bit that differs between machines draws no figure anew.
    """

    n: int
    seconds: float
    expected: float
    sd: float


@dataclass(frozen=True)
class Search:
    """One row's search on one task.

    Attributes:
        row, task: whose.
        points: for n = 1 to the number of draws that ended; a failed one counts as 0 points. Seconds are steps times
            the median seconds of a step, which a process that was stopped or went on from a checkpoint does not move,
            of the runs where there are some, on the processor that most of them had: all rows' were made alike, and
            trials may have had a busier machine.
        recipe: score of trial 0, which is no draw; None while it is under way.
        rates: (learning rate, points) of every trial that has both, of any kind.
    """

    row: str
    task: str
    points: list[Point]
    recipe: float | None
    rates: list[tuple[float, float]]


def searches(begun: Begun, records: Mapping[str, Record]) -> list[Search]:
    """The search of every row and task, in the order of planning."""
    places: dict[tuple[str, str], list[Trial]] = {}
    for trial in begun.trials:
        places.setdefault((trial.row, trial.task), []).append(trial)
    by_processor: dict[str | None, list[RunCell]] = {}
    for run, record in begun.ended(records):
        by_processor.setdefault(processor_of(record), []).append(run)
    timed = max(by_processor.values(), key=len, default=[])
    return [_search(row, task, trials, timed, records) for (row, task), trials in places.items()]


def _search(row: str, task: str, trials: list[Trial], timed: list[RunCell], records: Mapping[str, Record]) -> Search:
    ended = [trial for trial in trials if trial.id in records]
    scores = {trial.id: score_of(records[trial.id]) for trial in ended}
    draws = [scores[trial.id] or 0.0 for trial in ended if trial.kind == DRAW]
    points: list[Point] = []
    if draws:
        seconds = _seconds_of(ended, [run for run in timed if (run.row, run.task) == (row, task)], records)
        for n in range(1, len(draws) + 1):
            expected, sd = expected_best(draws, n), spread_of_best(draws, n)
            points.append(Point(n, round(n * seconds, 1), round(expected, 4), round(sd, 4)))
    recipe = next((scores[trial.id] for trial in ended if trial.kind == RECIPE), None)
    rates = [
        (lr, score)
        for trial in ended
        if (score := scores[trial.id]) is not None and (lr := trial.values.get("lr")) is not None
    ]
    return Search(row, task, points, recipe, sorted(rates))


def _seconds_of(trials: Sequence[Trial], runs: Sequence[RunCell], records: Mapping[str, Record]) -> float:
    """Seconds of one of these trials, by the runs' seconds of a step where there are some; else what they took."""
    per_step = step_seconds(runs, records) or step_seconds(trials, records)
    return fmean(records[one.id].run["seconds"] if per_step is None else one.steps * per_step for one in trials)


def write_curves(folder: Folder, begun: Begun, records: Mapping[str, Record]) -> list[Path]:
    """Write curves.csv and rates.csv, and the figures that there is data for; returns their paths."""
    found = searches(begun, records)
    folder.path.mkdir(parents=True, exist_ok=True)
    paths = [folder.path / "curves.csv", folder.path / "rates.csv"]
    curves = [
        [
            one.task,
            one.row,
            p.n,
            f"{p.seconds:.1f}",
            f"{p.expected:.4f}",
            f"{p.sd:.4f}",
            len(one.points),
            _told(one.recipe),
        ]
        for one in found
        for p in one.points
    ]
    write_text(paths[0], _csv([_COLUMNS, *curves]))
    rates = [[one.task, one.row, lr, f"{score:.4f}"] for one in found for lr, score in one.rates]
    write_text(paths[1], _csv([("task", "row", "lr", "score"), *rates]))
    made = [plot for plot in _plots(folder.path.name, found) if plot.panels]
    return [*paths, *draw_plots(folder, made)]


def _told(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _csv(lines: list[list[object] | tuple[str, ...]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _plots(name: str, found: list[Search]) -> list[Plot]:
    tasks = list(dict.fromkeys(one.task for one in found))
    spread = "Bars: standard deviation of the best of n, no interval. Of draws alone: no recipe (trial 0), no extras"

    def best(unit: str, x_label: str, note: str, *, by_seconds: bool) -> Plot:
        return Plot(
            folder=name,
            name=f"expected-best-{unit}",
            title=f"Expected best score after {'s' if by_seconds else 'n'} {unit}: study {name}",
            note=f"{note} {spread}{'.' if by_seconds else '; the recipe stands alone at 0.'}",
            protocol="tune",
            panels=tuple(
                Panel(
                    task,
                    means=tuple(mean for one in of for mean in _means(one, by_seconds)),
                    curves=tuple(
                        Curve(label_of(one.row), (), tuple((_x(p, by_seconds), p.expected) for p in one.points))
                        for one in of
                    ),
                )
                for task in tasks
                if (of := [one for one in found if one.task == task and one.points])
            ),
            x_label=x_label,
            y_label=_METRIC,
            apart=not by_seconds,  # a shift along this axis would be read as seconds
        )

    by_seconds = "As by trials, with the seconds of a trial: steps times the runs' median seconds of a step."
    return [
        best("trials", "trials", "Closed form of Dodge et al. (arXiv 1909.03004).", by_seconds=False),
        best("seconds", "seconds of trials", by_seconds, by_seconds=True),
        Plot(
            folder=name,
            name="score-over-lr",
            title=f"Score over the learning rate: study {name}",
            note="Every trial: other hyperparameters differ from point to point.",
            protocol="tune",
            panels=tuple(
                Panel(
                    task,
                    means=tuple(Mean(label_of(one.row), lr, score, None, 1) for one in of for lr, score in one.rates),
                )
                for task in tasks
                if (of := [one for one in found if one.task == task and one.rates])
            ),
            x_label="learning rate",
            y_label=_METRIC,
            log_x=True,
            apart=False,
        ),
    ]


def _x(point: Point, by_seconds: bool) -> float:
    return point.seconds if by_seconds else float(point.n)


def _means(search: Search, by_seconds: bool) -> list[Mean]:
    """The expected best after each number of draws, and at 0 the recipe, which takes none."""
    label = label_of(search.row)
    found = [Mean(label, _x(point, by_seconds), point.expected, point.sd or None, point.n) for point in search.points]
    alone = [] if by_seconds or search.recipe is None else [Mean(label, 0.0, search.recipe, None, 1)]
    return [*alone, *found]


def draw_plots(folder: Folder, plots: Sequence[Plot | Forest]) -> list[Path]:
    """Draw those that are not drawn of the same data already; returns the paths of all."""
    if not plots:
        return []
    from lora2_bench.report.figures.drawing import draw  # matplotlib takes 0.3 s to import

    style = styles(label for plot in plots for label in plot.labels())
    place = folder.path / "figures"
    place.mkdir(exist_ok=True)
    written = []
    for plot in plots:
        paths = [place / f"{plot.name}.svg", place / f"{plot.name}.png"]
        written += paths
        if paths[1].is_file() and is_drawn(paths[0], plot, style):
            continue
        svg, png = draw(plot, style)
        write_text(paths[0], svg.decode())
        write_bytes(paths[1], png)
    return written
