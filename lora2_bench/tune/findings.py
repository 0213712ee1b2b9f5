"""FINDINGS.md: the question, the answer with its intervals, what is not there yet, and what cannot be said."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora2_bench.experiment.suites import rows
from lora2_bench.files.writing import write_text
from lora2_bench.paper.tables import table1
from lora2_bench.records.record import Record
from lora2_bench.report.statistics.intervals import mean_interval
from lora2_bench.report.statistics.significance import sign_flip_test
from lora2_bench.tune.answer import chosen_at_edges, primary_answer, progress, shown_p, unlike
from lora2_bench.tune.compared import Comparison, Scores, compared, scores_of, secondary
from lora2_bench.tune.ledger import Begun, Folder, Trial, score_of
from lora2_bench.tune.limits import limits
from lora2_bench.tune.names import is_variant, name_of
from lora2_bench.tune.recipes import Winner, winners
from lora2_bench.tune.score_table import floors, parameters, score_table, told_apart
from lora2_bench.tune.study import Study


def write_findings(folder: Folder, study: Study, begun: Begun, records: Mapping[str, Record]) -> Path:
    """Write FINDINGS.md; the same records give the same bytes. Returns its path."""
    path = folder.path / "FINDINGS.md"
    write_text(path, "\n".join(findings(study, begun, records)) + "\n")
    return path


def findings(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """The lines of FINDINGS.md."""
    scores, mixed = scores_of(begun, records), unlike(begun, records)
    ours, other = study.comparisons[0]
    return [
        f"# Findings of the study {study.name}",
        "",
        f"Question: is {name_of(ours)} better than {name_of(other)}, each {_tuned(study)}, on "
        f"average over {', '.join(study.shared(ours, other))}? Backbone {study.model}, data {study.data}; scores are "
        "100 × the task's metric on dev at the end of training, where each run looks at dev once.",
        "",
        *progress(study, begun, records),
        "## The primary comparison",
        "",
        *_primary(study, scores, mixed),
        *chosen_at_edges(study, begun, records),
        "## Secondary comparisons",
        "",
        *_secondary(study, scores),
        "## Scores",
        "",
        *score_table(study, scores, floors(begun, records), parameters(begun, records)),
        "## The winners",
        "",
        *_winners(study, begun, records),
        "## What was not reproduced",
        "",
        *_not_reproduced(study, scores),
        "## What cannot be said",
        "",
        *limits(study, begun, records),
        "",
        f"Every number here is made by `{_command(study)}` of the records in `records.jsonl`; `ledger.csv` has every "
        "trial and `runs.csv` every run.",
    ]


def _tuned(study: Study) -> str:
    return "tuned with the same number of trials" if study.trials > 1 else "by its recipe"


def _command(study: Study) -> str:
    named = [] if study.folder in ("", study.name) else [f"name={study.folder}"]
    parts = [f"study={study.name}", *named, "stage=tables", *study.changes(), *study.extra]
    return f"python -m lora2_bench.tune {shlex.join(parts)}"


def _primary(study: Study, scores: Scores, mixed: Sequence[str]) -> list[str]:
    lines = primary_answer(study, scores, mixed)
    ours, other = study.comparisons[0]
    whole = compared(scores, ours, other, list(study.tasks))
    if not whole.differences:
        return lines
    lines += ["| task | difference | 95 % interval | seeds | printed, DeBERTaV3-base |"]
    lines += ["| --- | ---: | --- | ---: | ---: |"]
    for task in whole.tasks:
        shown = " | ".join(_cells(compared(scores, ours, other, [task]))[:3])
        lines.append(f"| {task} | {shown} | {_printed(ours, other, task)} |")
    apart = {task: told_apart(study, scores, ours, other, task) for task in whole.tasks}
    told = "Single tasks have no p here, and are no part of the answer."
    if all(known is not None for known in apart.values()):
        split = ", ".join(task for task, known in apart.items() if known)
        told += f" The letters below, of all pairs of a column, tell the two apart on {split or 'none of them'}."
    return [*lines, "", told, ""]


def _printed(ours: str, other: str, task: str) -> str:
    found = _printed_difference(ours, other, task)
    return "–" if found is None else f"{found:+.2f}"


def _printed_difference(ours: str, other: str, task: str) -> float | None:
    """The difference of two rows' printed figures in the paper's Table 1; None where it has none."""
    printed = {(row.method, row.size): row for row in table1().values()}
    one, two = (
        None if is_variant(name) else printed.get((rows()[name].method, rows()[name].size)) for name in (ours, other)
    )
    if one is None or two is None or task not in one.tasks:
        return None
    return float(one.score(task).value - two.score(task).value)


def _cells(one: Comparison) -> tuple[str, str, str, str, str]:
    """A comparison as cells of a table: difference, interval, seeds, p of the t test and of the sign flips."""
    if not one.differences:
        return "–", "–", "0", "–", "–"
    interval = mean_interval(one.differences)
    between = "–" if interval.low is None else f"{interval.low:+.2f} to {interval.high:+.2f}"
    p = "–" if one.t_p is None else shown_p(one.t_p)
    flipped = shown_p(sign_flip_test(one.differences)) if interval.n > 1 else "–"
    return f"{interval.estimate:+.2f}", between, str(interval.n), p, flipped


def _secondary(study: Study, scores: Scores) -> list[str]:
    found = secondary(scores, study.comparisons[1:], list(study.tasks))
    if not found:
        return ["None is planned.", ""]
    lines = ["| comparison | tasks | difference | 95 % interval | seeds | t p | sign-flip p | Holm p |"]
    lines += ["| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    for one, adjusted in found:
        names = f"{name_of(one.ours)} − {name_of(one.other)}"
        p = "–" if adjusted is None else shown_p(adjusted)
        lines.append(f"| {names} | {' '.join(one.tasks) or '–'} | {' | '.join(_cells(one))} | {p} |")
    tested, seeds = sum(adjusted is not None for _, adjusted in found), len(study.seeds)
    least = min(1.0, 2 / 2**seeds)
    told = (
        f"Holm's correction is over the {len(found)} planned, of which {tested} can be tested. The intervals are of "
        f"each alone, and the sign-flip p is not adjusted: {seeds} seeds cannot give one under {least:.3f}."
    )
    return [*lines, "", told, ""]


def _winners(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    lines = [
        "| row | task | trial | held-out score | recipe's | values | at an edge | learnt nothing |",
        "| --- | --- | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    for (row, task), found in winners(begun, records, study.places).items():
        trials = begun.of(row, task)
        failed = f"| {row} | {task} | – | – | – | all trials failed |"
        told = failed if found is None else _winner_line(found, trials[0], records)
        lines.append(f"{told} | {sum(_learnt_nothing(records[one.id]) for one in trials)} |")
    if len(lines) == 2:
        return ["None is chosen yet.", ""]
    told = (
        "Trial 0 is the recipe. Equal scores go to the lower trial. The last column counts the trials that failed, "
        "scored 0 or less, or gave one class for every row (by accuracy and F1): they tell where its space breaks down."
    )
    return [*lines, "", told, ""]


def _learnt_nothing(record: Record) -> bool:
    """Whether a trial failed, scored 0 or less, or gave one class for every row, as far as its metrics tell.

    One class has recall 1 and a precision that is the accuracy a, hence F1 = 2a / (1 + a); the other one has F1 = 0.
    """
    last = record.result.get("last") if record.is_done else None
    if last is None or last["score"] <= 0:
        return True
    (metrics,) = last["metrics"].values()
    accuracy, f1 = metrics.get("accuracy"), metrics.get("f1")
    if accuracy is None or f1 is None:
        return False
    return f1 == 0 or math.isclose(f1, 2 * accuracy / (1 + accuracy), rel_tol=1e-9)


def _winner_line(found: Winner, first: Trial, records: Mapping[str, Record]) -> str:
    trial = found.trial
    values = ", ".join(f"{name} {value:g}" for name, value in trial.values.items())
    of_recipe = score_of(records[first.id])
    shown = "failed" if of_recipe is None else f"{of_recipe:.2f}"
    start = f"| {trial.row} | {trial.task} | {trial.number} ({trial.kind}) | {found.score:.2f} | {shown}"
    return f"{start} | {values} | {', '.join(found.at_edge)}"


def _not_reproduced(study: Study, scores: Scores) -> list[str]:
    """The primary pair's printed differences beside ours: where the sign is another, and where they lie outside."""
    ours, other = study.comparisons[0]
    printed = {task: _printed_difference(ours, other, task) for task in study.shared(ours, other)}
    if all(value is None for value in printed.values()):
        return ["The paper prints nothing of this pair.", ""]
    signs, outside = [], []
    for task, value in printed.items():
        found = compared(scores, ours, other, [task]).differences
        if value is None or not found:
            continue
        interval = mean_interval(found)
        if interval.estimate * value < 0:
            signs.append(task)
        if interval.low is not None and interval.high is not None and not interval.low <= value <= interval.high:
            outside.append(task)
    return [
        f"The paper's difference of this pair has another sign on {', '.join(signs) or 'no task'}, and is outside of "
        f"our interval on {', '.join(outside) or 'no task'}. Backbone, lengths and epochs are others than the paper's, "
        "so this replicates none of its figures: it neither confirms nor refutes them.",
        "",
    ]
