"""The sources' claim, "LoRA learns less and forgets less" (arXiv 2405.09673), as verdicts with their intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lora2_bench.report.retention.settings import MEASURES, Kept, Setting, score_of
from lora2_bench.report.statistics.intervals import Interval, mean_interval
from lora2_bench.report.statistics.significance import holm, pair, sign_flip_test, t_test

FULL = "full"
SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
_HELD_OUT = "held_out"
_QUESTIONS = {"target": -1, **dict.fromkeys(MEASURES, +1)}  # with the sign of the claim
FEWEST_PAIRS = 3
"""With fewer, two differences that happen to be close would give a word."""


@dataclass(frozen=True)
class Difference:
    """A method minus full fine-tuning, paired by seed.

    Attributes:
        interval: mean difference with its t interval.
        p: of the paired t test; None where the spread is unknown.
        adjusted: `p` by Holm over the methods of its table; None without one.
        flips: of the sign-flip test.
        word: whether the claim's direction is supported by the interval.
    """

    interval: Interval
    p: float | None
    adjusted: float | None
    flips: float
    word: str


@dataclass(frozen=True)
class Judged:
    """One method against full fine-tuning, each at the rate that its held-out rows chose.

    Attributes:
        ours, full: the settings that were chosen.
        rates: how many learning rates each was given, and whether the chosen one is an end, as `highest of 3`.
        notes: what a reader has to know of the choice: a rate at the edge of its grid or left out, nothing learnt.
        turning: words that are others with a rate that the held-out rows do not tell apart from the chosen one.
        learns: difference of the target score.
        forgets: measure -> difference of what was kept.
    """

    ours: Setting
    full: Setting
    rates: tuple[str, str]
    notes: tuple[str, ...]
    turning: tuple[str, ...]
    learns: Difference
    forgets: dict[str, Difference]


def judge(found: Sequence[Setting]) -> list[Judged]:
    """Every other method of one place, task and protocol against full fine-tuning, on seeds that both have.

    Under protocol clean alone: only there a rate can be chosen without a look at dev. All are trained on the same rows
    for as long. Methods without such runs, or without a shared seed, are left out.
    """
    if not found or found[0].run.protocol != "clean":
        return []
    by_label: dict[str, list[Setting]] = {}
    for setting in found:
        by_label.setdefault(setting.run.label, []).append(setting)
    if FULL not in by_label:
        return []
    full = _best(by_label.pop(FULL))
    training, pairs = _training(full.best), []
    for own in by_label.values():
        able = [one for one in own if _training(one) == training]
        if able and _differences((ours := _best(able)).best, full.best, "target"):
            pairs.append(ours)
    tested = {
        question: _tested([_differences(ours.best, full.best, question) for ours in pairs], sign)
        for question, sign in _QUESTIONS.items()
    }
    return [
        Judged(
            ours.best,
            full.best,
            (ours.which, full.which),
            (*ours.notes, *full.notes),
            _turning(ours, full),
            _there(tested["target"][at]),
            {name: one for name in MEASURES if (one := tested[name][at]) is not None},
        )
        for at, ours in enumerate(pairs)
    ]


def _there(difference: Difference | None) -> Difference:
    assert difference is not None, "only pairs with shared seeds are judged"
    return difference


def _training(setting: Setting) -> str:
    """On which rows and weights a setting trained, and for how long."""
    cell, result = setting.run.record.cell, setting.run.record.result
    train = {name: cell["train"].get(name) for name in ("epochs", "max_steps", "batch_size", "max_length")}
    made_of = [result["data"]["sha256"], result["backbone"]["sha256"]]
    return json.dumps([train, cell["data"], made_of], sort_keys=True)


@dataclass(frozen=True)
class _Choice:
    """The setting of the chosen rate, which of how many it is, notes, and the rates that may have lost by chance."""

    best: Setting
    which: str
    notes: tuple[str, ...]
    close: tuple[Setting, ...]


def _best(found: Sequence[Setting]) -> _Choice:
    """The learning rate with the highest mean on the rows that chose the checkpoint.

    Of settings that differ in more than the rate, those with the most runs count, and of rates those with the most
    seeds. Equal means give the smaller rate. A rate at which every run failed was given, too.
    """
    groups: dict[str, list[Setting]] = {}
    for one in found:
        groups.setdefault(one.run.without_lr, []).append(one)
    most = max(groups.values(), key=lambda group: sum(len(one.runs) for one in group))
    seeds = max(len(one.runs) for one in most)
    able = [one for one in most if len(one.runs) == seeds]
    best = max(able, key=lambda one: (round(one.selected, 9), -one.run.lr))
    label, rates = best.run.label, sorted({*best.failed, *(one.run.lr for one in most)})
    which = f"of {len(rates)}"
    notes = [f"{label} at {one.run.lr:g} has fewer seeds: left out" for one in most if one not in able]
    notes += [f"{label} at {lr:g} has failed runs alone, {n} of them" for lr, n in sorted(best.failed.items())]
    if len(rates) > 1 and best.run.lr in (rates[0], rates[-1]):
        end = "lowest" if best.run.lr == rates[0] else "highest"
        which = f"{end} {which}"
        notes.append(f"{label}'s rate {best.run.lr:g} is the {end} given")
    for count, what in (
        (best.unlearnt, "end no better than one answer for every row"),
        (best.early, "are measured before the rank budget was met"),
    ):
        if count:
            notes.append(f"{count} of {seeds} runs of {label} at {best.run.lr:g} {what}")
    return _Choice(best, which, tuple(notes), _close(best, able))


def _turning(ours: _Choice, full: _Choice) -> tuple[str, ...]:
    """The words that are others with a rate, of either, that held-out rows may have left out by chance."""
    words, label, told = _words(ours.best, full.best), ours.best.run.label, []
    others = [(one, full.best, f"{label} at {one.run.lr:g}") for one in ours.close]
    others += [(ours.best, one, f"{label} against full at {one.run.lr:g}") for one in full.close]
    for one, against, name in others:
        for question, (word, difference) in _words(one, against).items():
            if question in words and words[question][0] != word:
                told.append(f"{name} {question}: {word}, {difference}")
    return tuple(told)


def _close(best: Setting, able: Sequence[Setting]) -> tuple[Setting, ...]:
    """The other rates that held-out rows, paired by seed, do not tell apart from the chosen one."""
    found = []
    for one in able:
        ahead = mean_interval(_differences(best, one, _HELD_OUT))
        if one is not best and ahead.n >= FEWEST_PAIRS and (ahead.estimate if ahead.low is None else ahead.low) <= 0:
            found.append(one)
    return tuple(found)


def _words(ours: Setting, full: Setting) -> dict[str, tuple[str, str]]:
    """Question -> its word and the difference behind it."""
    found = {}
    for name, sign in _QUESTIONS.items():
        if values := _differences(ours, full, name):
            asked = "learns less" if name == "target" else f"forgets less by {MEASURES[name].name}"
            interval, digits = mean_interval(values), MEASURES[name].digits if name in MEASURES else 2
            found[asked] = _word(interval, sign), shown(interval, digits)
    return found


def shown(interval: Interval, digits: int) -> str:
    """A difference with the ends of its interval."""
    known = interval.low is not None and interval.high is not None
    ends = f"{interval.low:+.{digits}f} to {interval.high:+.{digits}f}" if known else "unknown"
    return f"{interval.estimate:+.{digits}f} ({ends})"


def _differences(ours: Setting, full: Setting, measure: str) -> list[float]:
    """Ours minus full's by seed: of the target, of what was kept of a measure on equal rows, or on held-out rows."""

    def values(setting: Setting) -> dict[tuple[str, int], float]:
        found = {(_rows(one, measure), one.run.seed): _value(one, measure) for one in setting.runs}
        return {key: value for key, value in found.items() if value is not None}

    return [float(value) for value in pair(values(ours), values(full)).differences]


def _rows(one: Kept, measure: str) -> str:
    return "; ".join(one.rows(measure)) if measure in MEASURES else ""


def _value(one: Kept, measure: str) -> float | None:
    if measure == "target":
        return score_of(one.run)
    return one.selected if measure == _HELD_OUT else one.kept(measure)


def _tested(families: Sequence[list[float]], sign: int) -> list[Difference | None]:
    """The tests of each method's differences; Holm's correction is over the methods that have a p."""
    ps = [t_test(values) if values else None for values in families]
    known = [at for at, p in enumerate(ps) if p is not None]
    adjusted = dict(zip(known, holm([p for p in ps if p is not None]), strict=True))
    found: list[Difference | None] = []
    for at, values in enumerate(families):
        if not values:
            found.append(None)
            continue
        interval = mean_interval(values)
        found.append(Difference(interval, ps[at], adjusted.get(at), sign_flip_test(values), _word(interval, sign)))
    return found


def _word(interval: Interval, sign: int) -> str:
    """Whether the whole interval lies on the claim's side of zero, on the other side, or on both (or has few pairs)."""
    if interval.low is None or interval.high is None or interval.n < FEWEST_PAIRS:
        return UNDECIDED
    low, high = sorted((sign * interval.low, sign * interval.high))
    return SUPPORTED if low > 0 else CONTRADICTED if high < 0 else UNDECIDED
