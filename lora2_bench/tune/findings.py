"""FINDINGS.md: the question, the answer with its intervals, what is not there yet, and what cannot be said."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lora2_bench.experiment.suites import rows
from lora2_bench.files.writing import write_text
from lora2_bench.paper.tables import table1
from lora2_bench.records.record import Record
from lora2_bench.report.majority import majority_score
from lora2_bench.report.statistics.intervals import averages, mean_interval, spread
from lora2_bench.report.statistics.power import detectable_difference
from lora2_bench.report.statistics.significance import holm, sign_flip_test
from lora2_bench.report.statistics.ties import groups_of
from lora2_bench.tune.compared import Comparison, Scores, compared, scores_of
from lora2_bench.tune.ledger import Begun, Folder, Trial, budgets, score_of
from lora2_bench.tune.names import is_variant, name_of
from lora2_bench.tune.recipes import Winner, winner
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
        "100 × the task's metric on dev at the end of training, dev looked at once.",
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
        *score_table(study, scores, floors(begun, records)),
        "## The winners",
        "",
        *_winners(study, begun, records),
        "## What was not reproduced",
        "",
        *_not_reproduced(study, scores),
        "## What cannot be said",
        "",
        *_limits(study, begun, records),
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


def progress(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """How much of the study is in."""
    trials = sum(trial.id in records for trial in begun.trials)
    planned = len(begun.runs) or len(study.places) * len(study.seeds)
    runs = sum(run.id in records for run in begun.runs)
    lines = [
        f"{trials} of {len(begun.trials)} trials and {runs} of {planned} runs are in. {budgets(begun.trials, records)}",
        "",
    ]
    if trials < len(begun.trials) or runs < planned:
        primary = [run for run in begun.runs if run.row in study.comparisons[0]]
        has_answer = bool(primary) and all(run.id in records for run in primary)
        told = "what follows is of the runs that are in, and no answer yet"
        if has_answer:
            told = "the primary comparison is complete, the rest is of the runs that are in"
        lines += [f"**The study is under way: {told}.**", ""]
    failed = [one for one in begun.cells if one.id in records and not records[one.id].is_done]
    if failed:
        lines += [
            f"{len(failed)} failed (ledger.csv and runs.csv have the causes); a failed trial counts as 0 points.",
            "",
        ]
    if mixed := unlike(begun, records):
        which = ", ".join(map(name_of, mixed))
        lines += [f"**Runs of {which} are not of one version of the code and one stream of masks.**", ""]
    if low := _at_majority(begun, records):
        lines += [f"{low}; they count like all others.", ""]
    if cut := sorted({mark for run in begun.runs if run.id in records for mark in records[run.id].cut}):
        lines += [f"Runs are off their recipe: {'; '.join(cut)}.", ""]
    return lines


def unlike(begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """The rows whose finished runs were made by several versions of the code, or with several streams of masks.

    All rows, where each was made alike but with another stream of masks, engine or torch than another.
    """
    kinds: dict[str, set[tuple[Any, ...]]] = {}
    for run in begun.runs:
        if run.id in records and (facts := records[run.id]).is_done:
            made = facts.run
            common = (made.get("masks"), made.get("engine"), made.get("versions", {}).get("torch"))
            kinds.setdefault(run.row, set()).add((made.get("sources"), *common))
    mixed = [row for row, found in kinds.items() if len(found) > 1]
    common_to_all = len({of[1:] for found in kinds.values() for of in found}) < 2
    return mixed or ([] if common_to_all else list(kinds))


def _at_majority(begun: Begun, records: Mapping[str, Record]) -> str:
    """How many runs ended no better than one class for every row, or without any correlation, and which; or nothing."""
    found: Counter[tuple[str, str]] = Counter()
    for run in begun.runs:
        score = score_of(records[run.id]) if run.id in records else None
        floor = None if score is None else majority_score(records[run.id])
        if score is not None and score <= (floor or 0.0) + 1e-9:
            found[run.row, run.task] += 1
    told = ", ".join(f"{name_of(row)} on {task} {count}" for (row, task), count in found.items())
    return f"{found.total()} runs ended no better than one answer for every row ({told})" if found else ""


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
    told = "Single tasks have no p, and are no part of the answer; the letters below are of all pairs of a column."
    return [*lines, "", told, ""]


def primary_answer(study: Study, scores: Scores, mixed: Sequence[str]) -> list[str]:
    """The primary comparison's result and verdict, in words; no verdict where one of its rows is `mixed` (`unlike`)."""
    ours, other = study.comparisons[0]
    whole = compared(scores, ours, other, list(study.tasks))
    if not whole.differences:
        return ["No seed has finished on all tasks of both: nothing to compare yet.", ""]
    lines = [f"{name_of(ours)} minus {name_of(other)}, over {', '.join(whole.tasks)}: {_told(whole)}.", ""]
    p, planned, tasks = whole.t_p, len(study.seeds), study.shared(ours, other)
    if len(whole.differences) < planned or whole.tasks != tasks:
        lines += [f"Planned: {planned} seeds over {', '.join(tasks)}.", ""]
    elif {ours, other} & {*mixed}:
        lines += ["Their runs are not alike: there is no verdict.", ""]
    elif p is None:
        lines += ["One seed, or equal differences: their spread is not known, and there is no test.", ""]
    elif p < 0.05:
        better, worse = (ours, other) if fmean(whole.differences) > 0 else (other, ours)
        lines += [f"**{name_of(better)} is better than {name_of(worse)} (p under 0.05).**", ""]
    else:
        lines += ["**The two are not told apart (p of 0.05 or more): that is not the same as being equal.**", ""]
    return lines


def chosen_at_edges(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """Which values of the primary pair were chosen at an edge of their space, in words; nothing where none was."""
    ours, other = study.comparisons[0]
    found = [
        f"{name_of(row)} on {task}, {' and '.join(best.at_edge)}"
        for task in study.shared(ours, other)
        for row in (ours, other)
        if (best := _best(begun, records, row, task)) is not None and best.at_edge
    ]
    told = "Chosen at an edge of its space, beyond which a better value may lie"
    return [f"{told}: {'; '.join(found)}.", ""] if found else []


def _best(begun: Begun, records: Mapping[str, Record], row: str, task: str) -> Winner | None:
    """The winner of a row on a task once all of its trials have ended; None where none has finished."""
    trials = begun.of(row, task)
    is_whole = bool(trials) and all(trial.id in records for trial in trials)
    return winner(trials, records) if is_whole else None


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


def _told(one: Comparison) -> str:
    """A comparison in words."""
    interval, sd = mean_interval(one.differences), spread(one.differences)
    n = len(one.differences)
    text = f"{interval.estimate:+.2f} points ({n} seed{'s' if n > 1 else ''})"
    if sd is None or interval.low is None or one.t_p is None:
        return text
    least = detectable_difference(sd, n)
    return (
        f"{text}, 95 % interval {interval.low:+.2f} to {interval.high:+.2f}, paired t p = {shown_p(one.t_p)}, "
        f"sign-flip p = {shown_p(sign_flip_test(one.differences))}; sd {sd:.2f}, with which {n} seeds detect "
        f"{least:.2f} points in 80 % of cases"
    )


def _cells(one: Comparison) -> tuple[str, str, str, str, str]:
    """A comparison as cells of a table: difference, interval, seeds, p of the t test and of the sign flips."""
    if not one.differences:
        return "–", "–", "0", "–", "–"
    interval = mean_interval(one.differences)
    between = "–" if interval.low is None else f"{interval.low:+.2f} to {interval.high:+.2f}"
    p = "–" if one.t_p is None else shown_p(one.t_p)
    flipped = shown_p(sign_flip_test(one.differences)) if interval.n > 1 else "–"
    return f"{interval.estimate:+.2f}", between, str(interval.n), p, flipped


def shown_p(p: float) -> str:
    """A p to three digits after the point; to four where three would hide on which side of 0.05 it is."""
    if p < 0.0005:
        return "under 0.001"
    return f"{p:.4f}" if 0.0495 <= p < 0.0505 else f"{p:.3f}"


def _secondary(study: Study, scores: Scores) -> list[str]:
    pairs = study.comparisons[1:]
    if not pairs:
        return ["None is planned.", ""]
    found = [compared(scores, *pair, list(study.tasks)) for pair in pairs]
    tested = [one for one in found if one.t_p is not None]
    known = [one.t_p for one in tested if one.t_p is not None]
    family = [*known, *[1.0] * (len(found) - len(known))]  # what cannot be tested yet stays in it
    adjusted = dict(zip(map(id, tested), holm(family), strict=False))
    lines = ["| comparison | tasks | difference | 95 % interval | seeds | t p | sign-flip p | Holm p |"]
    lines += ["| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    for one in found:
        names = f"{name_of(one.ours)} − {name_of(one.other)}"
        p = shown_p(adjusted[id(one)]) if id(one) in adjusted else "–"
        lines.append(f"| {names} | {' '.join(one.tasks) or '–'} | {' | '.join(_cells(one))} | {p} |")
    return [
        *lines,
        "",
        f"Holm's correction is over the {len(found)} planned, of which {len(tested)} can be tested.",
        "",
    ]


def floors(begun: Begun, records: Mapping[str, Record]) -> dict[str, float]:
    """Task -> points of train's most frequent class for every dev row, by the records of its runs that tell them."""
    found = ((run.task, majority_score(records[run.id])) for run in begun.runs if run.id in records)
    return {task: floor for task, floor in found if floor is not None}


def score_table(study: Study, scores: Scores, majority: Mapping[str, float] | None = None) -> list[str]:
    """Mean ± sd of every row and task, and over tasks that all rows share or the primary pair does, with their letters.

    Rows without a run are left out. A column's letters of tie groups wait until all of its runs are in. The last
    line is what the `majority` class of each task scores, where that is given (`floors`).
    """
    if not scores:
        return ["No run has finished yet.", ""]
    common = [task for task, names in study.tasks.items() if set(names) == set(study.rows)]
    sets = [tasks for tasks in (common, study.shared(*study.comparisons[0])) if tasks]
    sets = [tasks for at, tasks in enumerate(sets) if tasks not in sets[:at]]
    columns = [_column(study, scores, [task]) for task in study.tasks] + [_column(study, scores, one) for one in sets]
    head = [*study.tasks, *(f"mean of {', '.join(one)}" for one in sets)]
    lines = [f"| method | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for row in study.rows:
        if row in scores:
            lines.append(f"| {name_of(row)} | {' | '.join(column.get(row, '–') for column in columns)} |")
    if majority:
        shown = [f"{majority[task]:.2f}" if task in majority else "–" for task in study.tasks]
        lines.append(f"| majority class | {' | '.join([*shown, *('–' for _ in sets)])} |")
    told = (
        "Mean ± standard deviation over seeds (seeds). Two rows without a common letter are told apart by paired t "
        "tests with Holm over all pairs of a column, at 5 %; the planned comparisons are another family. A column has "
        "letters once all its runs are in."
    )
    return [*lines, "", told, ""]


def _column(study: Study, scores: Scores, tasks: Sequence[str]) -> dict[str, str]:
    """Row -> what the table shows of it over these tasks, of those that have scores on all of them."""
    planned = [row for row in study.rows if all(row in study.tasks[task] for task in tasks)]
    found = {row: {task: scores[row][task] for task in tasks} for row in planned if _has_all(scores, row, tasks)}
    whole = len(found) == len(planned) and all(
        set(of) == set(study.seeds) for by_task in found.values() for of in by_task.values()
    )
    letters = groups_of(found) if whole else {}
    return {row: _score(averages(of), letters.get(row, "")) for row, of in found.items()}


def _has_all(scores: Scores, row: str, tasks: Sequence[str]) -> bool:
    return bool(tasks) and all(scores.get(row, {}).get(task) for task in tasks)


def _score(by_seed: Mapping[int, float], letters: str) -> str:
    if not by_seed:
        return "–"
    values = [by_seed[seed] for seed in sorted(by_seed)]
    sd = spread(values)
    return f"{fmean(values):.2f}" + ("" if sd is None else f" ± {sd:.2f}") + f" ({len(values)}) {letters}".rstrip()


def _winners(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    lines = [
        "| row | task | trial | held-out score | recipe's | values | at an edge | trials at 0 |",
        "| --- | --- | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    for row, task in study.places:
        trials = begun.of(row, task)
        if not trials or any(trial.id not in records for trial in trials):
            continue
        found = winner(trials, records)
        failed = f"| {row} | {task} | – | – | – | all trials failed |"
        told = failed if found is None else _winner_line(found, trials[0], records)
        lines.append(f"{told} | {sum((score_of(records[one.id]) or 0.0) <= 0 for one in trials)} |")
    if len(lines) == 2:
        return ["None is chosen yet.", ""]
    told = (
        "Trial 0 is the recipe. Equal scores go to the lower trial. The last column counts the trials that failed or "
        "scored 0 or less: they tell where its space breaks down, and no more."
    )
    return [*lines, "", told, ""]


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


def _limits(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """What the study does not show, by its own file and by what is missing."""
    lines = [f"- {text}" for text in study.values["left_out"]]
    missing = [f"{row} on {task}" for row, task in study.places if not _runs_in(begun, records, row, task)]
    if missing:
        lines.append(f"- Not there yet: runs of {', '.join(missing)}.")
    most = max((len(begun.of(*place)) for place in study.places), default=study.trials) or study.trials
    by_task = [task for task, names in study.tasks.items() if set(names) != set(study.rows)]
    if by_task:
        lines.append(f"- Fewer methods were planned on {', '.join(by_task)}: averages over all methods leave it out.")
    if recipes := _won_by_recipe(study, begun, records):
        lines.append(f"- Of the primary pair the recipe itself won for {recipes}: how it was once chosen counts there.")
    lines += [
        f"- {most} trials find no optimum; all have as many, and curves.csv says what fewer draws give. Where trials "
        "scored 0, fewer could win."
        if study.trials > 1
        else "- Nothing is tuned: another rate may suit a row better than its recipe's.",
        "- Intervals and p take the winners as they are: the luck of the search is in none of them.",
        "- A mean over tasks weighs points of their metrics alike: the task whose scores vary most decides what can be "
        "told apart, and comparisons over other tasks are not on one scale.",
        "- Scores are of one backbone and of these tasks: nothing is said of larger ones.",
        "- Seeds change the head, the adapter, the order of rows and dropout, and never the dev rows: another dev set "
        "may differ by more than the intervals say.",
    ]
    return lines


def _won_by_recipe(study: Study, begun: Begun, records: Mapping[str, Record]) -> str:
    """Where a trial 0 of several is the winner of one of the primary pair, as `LoRA r=1 on cola`."""
    return ", ".join(
        f"{name_of(row)} on {task}"
        for row in study.comparisons[0]
        for task in study.shared(*study.comparisons[0])
        if study.trials > 1 and (best := _best(begun, records, row, task)) is not None and best.trial.number == 0
    )


def _runs_in(begun: Begun, records: Mapping[str, Record], row: str, task: str) -> bool:
    return any((run.row, run.task) == (row, task) and run.id in records for run in begun.runs)
