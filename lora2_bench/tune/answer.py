"""How much of a study is in, and the answer to its question, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lora2_bench.records.record import Record
from lora2_bench.report.majority import majority_score
from lora2_bench.report.statistics.intervals import mean_interval, spread
from lora2_bench.report.statistics.power import detectable_difference
from lora2_bench.report.statistics.significance import sign_flip_test
from lora2_bench.tune.compared import Comparison, Scores, compared, secondary
from lora2_bench.tune.ledger import WIDER, Begun, budgets, score_of
from lora2_bench.tune.names import name_of
from lora2_bench.tune.recipes import Winner, winners
from lora2_bench.tune.study import Study


def progress(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """How much of the study is in."""
    trials = sum(trial.id in records for trial in begun.trials)
    planned = len(begun.runs) or len(study.places) * len(study.seeds)
    ended = begun.ended(records)
    lines = [
        f"{trials} of {len(begun.trials)} trials and {len(ended)} of {planned} runs are in. "
        f"{budgets(begun.trials, records)}",
        "",
    ]
    if trials < len(begun.trials) or len(ended) < planned:
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
    elif ended and all(_has_floor(record) for _, record in ended):
        lines[0] += " No run ended as low as one answer for every row."
    if cut := sorted({mark for _, record in ended for mark in record.cut}):
        lines += [f"Runs are off their recipe: {'; '.join(cut)}.", ""]
    return lines


def unlike(begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """The rows whose finished runs were made by several versions of the code, or with several streams of masks.

    All rows, where each was made alike but with another stream of masks, engine or torch than another.
    """
    kinds: dict[str, set[tuple[Any, ...]]] = {}
    for run, record in begun.ended(records):
        if record.is_done:
            made = record.run
            common = (made.get("masks"), made.get("engine"), made.get("versions", {}).get("torch"))
            kinds.setdefault(run.row, set()).add((made.get("sources"), *common))
    mixed = [row for row, found in kinds.items() if len(found) > 1]
    common_to_all = len({of[1:] for found in kinds.values() for of in found}) < 2
    return mixed or ([] if common_to_all else list(kinds))


def _has_floor(record: Record) -> bool:
    """Whether it is known what one answer for every row would score: nothing in a regression."""
    return record.is_done and (record.spec.is_regression or majority_score(record) is not None)


def _at_majority(begun: Begun, records: Mapping[str, Record]) -> str:
    """How many runs ended no better than one class for every row, or without any correlation, and which; or nothing."""
    found: Counter[tuple[str, str]] = Counter()
    for run, record in begun.ended(records):
        score = score_of(record)
        floor = None if score is None else majority_score(record)
        if score is not None and score <= (floor or 0.0) + 1e-9:
            found[run.row, run.task] += 1
    told = ", ".join(f"{name_of(row)} on {task} {count}" for (row, task), count in found.items())
    return f"Runs that ended no better than one answer for every row: {found.total()} ({told})" if found else ""


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


def told_by_holm(study: Study, scores: Scores) -> list[str]:
    """The secondary comparisons whose p by Holm is under 0.05, in words; nothing where none is planned."""
    found = secondary(scores, study.comparisons[1:], list(study.tasks))
    if not found:
        return []
    sure = [
        f"{name_of(one.ours)} − {name_of(one.other)} {fmean(one.differences):+.2f}"
        for one, p in found
        if p is not None and p < 0.05
    ]
    return [f"Of {len(found)} secondary comparisons, under 0.05 by Holm: {', '.join(sure) or 'none'}."]


def chosen_at_edges(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """Which values of the primary pair were chosen at an edge of their space, in words; nothing where none was."""
    found = [
        f"{name_of(best.trial.row)} on {best.trial.task}, {' and '.join(best.at_edge)}{_beyond(best, begun, records)}"
        for best in winners_of_pair(study, begun, records)
        if best.at_edge
    ]
    return [f"Chosen at an edge of its space: {'; '.join(found)}.", ""] if found else []


def _beyond(best: Winner, begun: Begun, records: Mapping[str, Record]) -> str:
    """What is known beyond a winner's edge: the held-out score of the trial that was drawn there, if it lost."""
    trials = begun.of(best.trial.row, best.trial.task)
    wider = next((one for one in trials if one.kind == WIDER and one.id in records and one != best.trial), None)
    if wider is None:
        return ", beyond which a better value may lie"
    values = ", ".join(f"{name} {value:g}" for name, value in wider.values.items())
    score = score_of(records[wider.id])
    told = "failed" if score is None else f"scored {score:.2f} on the held-out rows, the winner {best.score:.2f}"
    return f"; the one trial beyond it ({values}) {told}"


def winners_of_pair(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[Winner]:
    """The winners of the primary pair on the tasks that both have, of those that are chosen."""
    pair = study.comparisons[0]
    places = [(row, task) for task in study.shared(*pair) for row in pair]
    return [best for best in winners(begun, records, places).values() if best is not None]


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


def shown_p(p: float) -> str:
    """A p to three digits after the point; to four where three would hide on which side of 0.05 it is."""
    if p < 0.0005:
        return "under 0.001"
    return f"{p:.4f}" if 0.0495 <= p < 0.0505 else f"{p:.3f}"
