"""Grids -> the sheets of one exhibit: a table per protocol, what choosing on dev buys, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lora2_bench.paper.printed import decimal
from lora2_bench.paper.tables import COLUMNS
from lora2_bench.report.runs import rows_and_study
from lora2_bench.report.statistics.intervals import Interval, interquartile_mean, mean_interval
from lora2_bench.report.statistics.verdict import VERDICTS
from lora2_bench.report.tables.commands import filling
from lora2_bench.report.tables.grid import Entry, Grid
from lora2_bench.report.tables.layouts import AVERAGE
from lora2_bench.report.tables.render import Sheet, Text
from lora2_bench.report.tables.slots import MARKS, MEANINGS
from lora2_bench.tasks.spec import TASKS

PROTOCOLS = {
    "paper": "best dev score of each run (protocol `paper`)",
    "last": "dev score at the end of each run (protocol `last`)",
    "clean": "dev score of the checkpoint chosen on held-out train rows (protocol `clean`)",
}
CSV_COLUMNS = (
    "exhibit", "model", "data", "protocol", "row", "method", "group", "column", "mean", "sd", "n", "seeds", "rank",
    "marks", "printed", "difference", "verdict", "reason", "low", "high", "adapter", "head", "active", "looks",
)  # fmt: skip


def sheets(grids: Sequence[Grid]) -> list[Sheet]:
    """All sheets of one exhibit, from its grids of one backbone and data source: at most one per protocol."""
    by_protocol = {grid.protocol: grid for grid in grids}
    found = [scores_sheet(grid) for grid in grids]
    found += [
        intervals_sheet(grid) for grid in grids if any(row.slots[task].runs for row in grid.rows for task in row.slots)
    ]
    if {"paper", "last"} <= by_protocol.keys():
        found.append(choice_sheet(by_protocol["paper"], by_protocol["last"]))
    if "paper" in by_protocol and any(row.line.printed for row in by_protocol["paper"].rows):
        found.append(verdict_sheet(by_protocol["paper"]))
    return found


def name_of(title: str, subject: str, paper_model: str, model: str, data: str) -> str:
    """A table's name: the paper's own only for its backbone on GLUE's own rows, else what it is instead."""
    other = []
    if model != paper_model:
        other.append(f"with {model} in place of {paper_model}")
    if data.startswith("mini"):
        other.append("on generated data: not GLUE")
    rows, study = rows_and_study(data)
    if rows.endswith("-sample"):
        other.append("on rows that are not all of GLUE's: not GLUE scores")
    if study:
        other.append(f"by the recipes that the study {study} tuned")
    if data.endswith("-init_from"):
        other.append("from another cell's adapter")
    return f"Layout of {title}, {', '.join(other)}" if other else f"{title}: {subject}, {model} on {data} data"


def title_of(grid: Grid) -> str:
    """The name of a grid's table."""
    exhibit = grid.exhibit
    return name_of(exhibit.title, exhibit.subject, exhibit.suite.model, grid.model, grid.data)


def scores_sheet(grid: Grid) -> Sheet:
    """Mean ± sd (n) of every place; where they belong, the printed figure and the difference in lines of their own."""
    lines: list[list[Text]] = []
    rules = set()
    for index, row in enumerate(grid.rows):
        if index and (row.line.group != grid.rows[index - 1].line.group):
            rules.add(len(lines))
        parameters = [Text(" / ".join(row.parameters(grid.protocol)) if row.parameters(grid.protocol)[0] else "")]
        ours = [value_text(row.entries[column]) for column in grid.columns]
        lines.append([Text(row.line.label), Text("ours"), *parameters, *ours])
        if grid.is_papers and row.line.printed is not None:
            shown = [row.entries[column] for column in grid.columns]
            params = Text(str(row.line.printed.params or ""))
            lines.append([Text(), Text("printed"), params, *(Text(str(entry.printed or "")) for entry in shown)])
            differences = [Text() if entry.difference is None else Text(signed(entry.difference)) for entry in shown]
            lines.append([Text(), Text("difference"), Text(), *differences])
    header = ["method", "", "parameters: adapter / head / active", *(column_label(name) for name in grid.columns)]
    notes = [
        *_score_notes(grid),
        *legend(mark for row in grid.rows for at in row.entries.values() for mark in at.marks),
    ]
    same = grid.protocol == "last"  # the runs of `paper`, whose table has their gaps already
    notes += ["The runs are those of protocol `paper`: what fills the gaps stands there."] if same else _reasons(grid)
    commands = [] if same else filling(grid)
    title = f"{title_of(grid)}; {PROTOCOLS[grid.protocol]}"
    return Sheet(title, header, 2, lines, frozenset(rules), notes, commands)


def choice_sheet(paper: Grid, last: Grid) -> Sheet:
    """Best minus last dev score of the same runs: what choosing the checkpoint on dev buys."""
    lines = []
    for ours, theirs in zip(paper.rows, last.rows, strict=True):
        texts = [choice_text(ours.entries[column], theirs.entries[column]) for column in paper.columns]
        lines.append([Text(ours.line.label), *texts])
    return Sheet(
        f"{title_of(paper)}; best minus last dev score: what choosing the checkpoint on dev buys",
        ["method", *(column_label(name) for name in paper.columns)],
        1,
        lines,
        notes=["Points, mean ± standard deviation (seeds) of the difference within each run."],
    )


def intervals_sheet(grid: Grid) -> Sheet:
    """The t interval of every mean, and of the interquartile mean over tasks."""
    lines = []
    for row in grid.rows:
        middle = _middle(row.entries[AVERAGE])
        means = [_interval_text(row.entries[column].interval) for column in grid.columns]
        estimate = Text(MARKS["missing"] if middle is None else f"{middle.estimate:.2f}")
        lines.append([Text(row.line.label), *means, estimate, _interval_text(middle)])
    return Sheet(
        f"{title_of(grid)}, 95 % intervals of the means; {PROTOCOLS[grid.protocol]}",
        ["method", *(column_label(name) for name in grid.columns), "interquartile mean", "interval"],
        1,
        lines,
        notes=[
            "Student's t over seeds; for an average, over each seed's average. None where the spread is unknown: one "
            "seed, equal scores, or tasks with different sets of seeds. Interquartile mean: of the middle half of a "
            "seed's tasks, averaged over seeds."
        ],
    )


def _middle(average: Entry) -> Interval | None:
    """The interquartile mean over tasks; None without an average, or where tasks have different sets of seeds."""
    if len({tuple(runs) for runs in average.scores.values()}) != 1:
        return None
    return mean_interval(
        [interquartile_mean([runs[seed] for runs in average.scores.values()]) for seed in average.seeds]
    )


def _interval_text(found: Interval | None) -> Text:
    return Text(MARKS["missing"] if found is None or found.low is None else f"{found.low:.2f} to {found.high:.2f}")


def verdict_sheet(paper: Grid) -> Sheet:
    """The verdict on each printed figure, by the rule of docs/STATISTICS.md."""
    judged = [row for row in paper.rows if row.line.printed is not None]
    verdicts = [entry.verdict for row in judged for entry in row.entries.values() if entry.verdict is not None]
    counts = {word: sum(verdict.word == word for verdict in verdicts) for word in VERDICTS}
    note = f"Of {len(verdicts)} printed figures: {', '.join(f'{count} {word}' for word, count in counts.items())}."
    title = f"{title_of(paper)}; verdicts on the printed figures"
    rule = "The rule is in docs/STATISTICS.md; the reason for each is in the CSV file."
    if not paper.is_papers:
        return Sheet(
            title,
            ["printed figures", "verdict"],
            2,
            [[Text(str(len(verdicts))), Text("not comparable")]],
            notes=[f"{'; '.join(paper.obstacles)}."],
        )
    words = [
        [
            entry.verdict.word if entry.mean is not None and entry.verdict else MARKS["missing"]
            for entry in row.entries.values()
        ]
        for row in judged
    ]
    lines = [[Text(row.line.label), *map(Text, shown)] for row, shown in zip(judged, words, strict=True)]
    if unseen := sum(word == MARKS["missing"] for shown in words for word in shown):
        note += f" {MARKS['missing']} stands for no run of ours, which leaves {unseen} of them not comparable."
    header = ["method", *(column_label(name) for name in paper.columns)]
    return Sheet(title, header, len(header), lines, notes=[note, rule])


def csv_lines(grids: Iterable[Grid]) -> list[list[Any]]:
    """One line per row, column and protocol, as `CSV_COLUMNS`; scores with four digits."""
    found = []
    for grid in grids:
        exhibit = f"{'' if grid.is_papers else 'layout of '}{grid.exhibit.title}"
        for row in grid.rows:
            for column, entry in row.entries.items():
                judged = entry.verdict
                found.append(
                    [exhibit, grid.model, grid.data, grid.protocol, row.line.spec.name, row.line.label, row.line.group,
                     column, _digits(entry.mean), _digits(entry.sd), entry.n, " ".join(map(str, entry.seeds)),
                     entry.rank or "", "; ".join(entry.marks), entry.printed or "", _digits(entry.difference),
                     judged.word if judged else "", judged.reason if judged else "", *_ends(entry.interval),
                     *(part.replace(",", "") for part in row.parameters(grid.protocol)), entry.looks]
                )  # fmt: skip
    return found


def value_text(entry: Entry) -> Text:
    """`83.00 ± 3.61 (3)`, a best score `83.00 ± 3.61 (3; 40)`, with its marks; the mark alone where nothing counts."""
    marks = "".join(MARKS[mark] for mark in entry.marks)
    if entry.mean is None:
        return Text(marks or MARKS["missing"])
    spread = "" if entry.sd is None else f" ± {entry.sd:.2f}"
    looks = f"; {entry.looks}" if entry.looks else ""
    return Text(f"{entry.mean:.2f}", f"{spread} ({entry.n}{looks}){marks}", entry.rank)


def choice_text(best: Entry, last: Entry) -> Text:
    """Mean ± sd of best minus last over the seeds; the average over tasks only where their seeds are the same."""
    if best.mean is None or last.mean is None:
        return Text(MARKS["missing"])
    scores = [
        [runs[seed] - last.scores[task][seed] for seed in runs if seed in last.scores[task]]
        for task, runs in best.scores.items()
    ]
    per_seed = np.mean(scores, axis=0) if len({len(runs) for runs in scores}) == 1 and best.sd is not None else None
    mean = float(np.mean([np.mean(runs) for runs in scores]))
    spread = "" if per_seed is None or per_seed.size < 2 else f" ± {np.std(per_seed, ddof=1):.2f}"
    return Text(f"{mean:.2f}", f"{spread} ({best.n}){''.join(MARKS[mark] for mark in best.marks)}")


def signed(value: float) -> str:
    """A difference with its sign, a true minus."""
    return f"{value:+.2f}".replace("-", "−")


def column_label(name: str) -> str:
    """A column for readers."""
    return "average" if name == AVERAGE else COLUMNS[name].label


def _score_notes(grid: Grid) -> list[str]:
    beside = "seeds; looks at dev" if grid.protocol == "paper" else "seeds"
    figures = f"100 × the metric, mean ± standard deviation ({beside})."
    rank = "In each group the best is bold and the second underlined."
    rule = "The average counts every task once"
    both = [task for task in grid.exhibit.suite.tasks if len(grid.exhibit.columns_of(task)) > 1]
    named = " and ".join({"qqp": "QQP", "mnli": "MNLI"}[task] for task in both)
    notes = [f"{figures} {rank} {rule}{f', {named} each by the mean of its two columns' if both else ''}."]
    other = [(row.line.label, by_rule) for row in grid.rows if (by_rule := row.line.average_by_rule) is not None]
    if grid.is_papers and other:
        found = "; ".join(f"{label} {decimal(by_rule.value, 2)}" for label, by_rule in other)
        notes.append(f"Printed averages that are not those of the printed cells by this rule, which gives: {found}.")
    if {"lora_r1", "lora2_k1"} <= {row.line.spec.name for row in grid.rows}:
        notes.append(SAME_FUNCTIONS)
    return [*notes, *_unequal_looks(grid)]


SAME_FUNCTIONS = (
    "LoRA² k=1 adds a scalar times a rank-1 product to each map: exactly the functions of LoRA r=1. What sets the two "
    "apart is how they are trained, not what they can express."
)


def _unequal_looks(grid: Grid) -> list[str]:
    """One line on the tasks whose methods were scored on dev unequally often; none where all were alike."""
    found: dict[str, list[str]] = {}
    for task in grid.exhibit.suite.tasks:
        looks = [
            (n, row.line.label)
            for row in grid.rows
            for run in row.slots[task].runs.values()
            if (n := run.looks(grid.protocol)) is not None
        ]
        if len({n for n, _ in looks}) > 1:
            few, many = min(looks), max(looks)
            span = f"{few[0]} ({few[1]}) to {many[0]} ({many[1]})"
            found.setdefault(span, []).append(TASKS[task].folder)
    spans = "; ".join(f"{span} on {', '.join(tasks)}" for span, tasks in found.items())
    return [f"Looks at dev are unequal, and a best score rises with them: {spans}."] if found else []


def legend(marks: Iterable[str]) -> list[str]:
    """One line that says what the marks used mean; none without marks."""
    used = set(marks)
    meanings = "; ".join(f"{sign} {MEANINGS[mark]}" for mark, sign in MARKS.items() if mark in used)
    return [f"Marks: {meanings}."] if used else []


def _reasons(grid: Grid) -> list[str]:
    """Why runs of these places do not count: each reason once for a task, after the rows that it holds for."""
    labels: dict[tuple[str, str], list[str]] = {}
    for row in grid.rows:
        for task, slot in row.slots.items():
            for reason in slot.reasons:
                labels.setdefault((task, reason), []).append(row.line.label)
    found = [f"{', '.join(of)}, {task}: {reason.replace('; ', ', ')}" for (task, reason), of in labels.items()]
    return ["Runs that do not count: " + "; ".join(found) + "."] if found else []


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _ends(interval: Interval | None) -> list[str]:
    return ["", ""] if interval is None else [_digits(interval.low), _digits(interval.high)]
