"""What was forgotten as Markdown and CSV: the settings, and the sources' claim."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import fmean

from lora2_bench.report.retention.claim import Difference, Judged, judge, shown
from lora2_bench.report.retention.settings import MEASURES, Setting
from lora2_bench.report.standing import task_name
from lora2_bench.report.statistics.intervals import Interval

CLAIM = "LoRA learns less and forgets less"
_NOTE = (
    "Means over seeds ± half the 95 % interval. A change is after minus before, the same encoder at its start: 0 "
    "forgets nothing. Target: 100 × the task's metric on dev; epoch: that of the checkpoint, which both are of. "
    "‖ΔW‖/‖W₀‖, effective rank and intruders (of a map's top 10 singular vectors) are means over all maps of the "
    "encoder. docs/RETENTION.md says what each number cannot."
)
_CLAIM_NOTE = (
    "Minus full fine-tuning, paired by seed, each method at the learning rate with the highest mean on held-out rows "
    "of train: dev chose nothing. In brackets the 95 % interval; p of the paired t test, adjusted by Holm over the "
    "rows, and of sign flips, which five pairs cannot bring under 0.0625. The interval alone, not adjusted, gives the "
    "word: on one side of zero it is supported or contradicted, else undecided, as with fewer than three pairs."
)


_CHOSEN = "Of what was chosen"
_TURNING = "Of words that turn with a rate that held-out rows do not tell apart from the chosen one"


def sheet(folder: str, places: Mapping[tuple[str, str], Sequence[Setting]]) -> str:
    """The Markdown page of one backbone and data source; `places` is (task, protocol) -> settings."""
    lines = [f"# What was forgotten: {folder}", "", _NOTE, ""]
    for (task, protocol), found in places.items():
        lines += [f"## {task_name(task)}, protocol {protocol}", ""]
        shared = [mark for mark in found[0].marks if all(mark in one.marks for one in found)]
        if shared:
            lines += [f"All: {'; '.join(shared)}.", ""]
        lines += [*_settings(found, shared), *_probes(found)]
        if judged := judge(found):
            lines += [f"### {CLAIM} (arXiv 2405.09673)", "", *_claim(judged), "", _CLAIM_NOTE, ""]
            for head, notes in ((_CHOSEN, [one.notes for one in judged]), (_TURNING, [one.turning for one in judged])):
                told = dict.fromkeys(note for of in notes for note in of)
                lines += [f"{head}: {'; '.join(told)}.", ""] if told else []
    return "\n".join(lines).rstrip() + "\n"


def _settings(found: Sequence[Setting], shared: Sequence[str]) -> list[str]:
    measures = [name for name in MEASURES if any(one.kept(name) is not None for one in found)]
    head = ["method", "lr", "seeds", "epoch", "target"]
    head += [f"{MEASURES[name].name}, {MEASURES[name].unit}: before → after, change" for name in measures]
    head += ["‖ΔW‖/‖W₀‖", "effective rank", "intruders a map"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for one in found:
        own = [mark for mark in one.marks if mark not in shared]
        name = one.run.label + (f" [{'; '.join(own)}]" if own else "")
        cells = [name, f"{one.run.lr:g}", str(len(one.runs)), f"{one.epoch:.1f}", _plain(one.target, 2)]
        cells += [_change(one, measure) for measure in measures]
        weights = one.weights()
        cells += [f"{weights[key]:.{digits}f}" if weights else "–" for key, digits in _WEIGHTS.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _probes(found: Sequence[Setting]) -> list[str]:
    """Each probe's mean before and after: some start at what one class for every row gives, and can only gain."""
    names = sorted({name for one in found for kept in one.runs for name in kept.facts.get("probe", {})})
    if not names:
        return []
    lines = [f"| linear probes alone | lr | {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) + 1)]
    for one in found:
        cells = []
        for name in names:
            of = [probes[name] for kept in one.runs if name in (probes := kept.facts.get("probe", {}))]
            means = [100 * fmean(values) for values in zip(*((p["before"], p["after"]) for p in of), strict=True)]
            cells.append(" → ".join(f"{mean:.1f}" for mean in means) or "–")
        lines.append(f"| {one.run.label} | {one.run.lr:g} | {' | '.join(cells)} |")
    return [*lines, ""]


_WEIGHTS = {"update": 4, "effective_rank": 1, "intruders": 2}


def _change(one: Setting, measure: str) -> str:
    both, kept, digits = one.before_and_after(measure), one.kept(measure), MEASURES[measure].digits
    if both is None or kept is None:
        return "–"
    before, after = (abs(value) if measure == "mlm" else value for value in both)
    sign = -1 if measure == "mlm" else 1  # nats rise where something is forgotten
    shown = _plain(Interval(sign * kept.estimate, kept.low, kept.high, kept.n), digits, "+")
    return f"{before:.{digits}f} → {after:.{digits}f}, {shown}"


def _plain(interval: Interval, digits: int, sign: str = "") -> str:
    half = "" if interval.low is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.estimate:{sign}.{digits}f}{half}"


def _claim(judged: Sequence[Judged]) -> list[str]:
    measures = [name for name in MEASURES if any(name in one.forgets for one in judged)]
    head = ["method", "lr", "full's lr", "seeds", "target", "learns less"]
    for name in measures:
        head += [f"kept of {MEASURES[name].name}, {MEASURES[name].unit}", "forgets less"]
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | ---: | ---: |" + " ---: | --- |" * ((len(head) - 4) // 2)]
    for one in judged:
        cells = [one.ours.run.label]
        cells += [
            f"{setting.run.lr:g} ({rates})" for setting, rates in zip((one.ours, one.full), one.rates, strict=True)
        ]
        cells += [str(one.learns.interval.n), _difference(one.learns, 2), one.learns.word]
        for name in measures:
            found = one.forgets.get(name)
            cells += ["–", "–"] if found is None else [_difference(found, MEASURES[name].digits), found.word]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _difference(found: Difference, digits: int) -> str:
    p = "" if found.adjusted is None else f"p {found.adjusted:.4f}, "
    return f"{shown(found.interval, digits)}; {p}flips {found.flips:.4f}"


def rows_csv(places: Mapping[tuple[str, str], Sequence[Setting]]) -> str:
    """One line a setting."""
    names = [f"{name}_{part}" for name in MEASURES for part in ("before", "after", "change", "low", "high")]
    head = [
        "task",
        "protocol",
        "method",
        "lr",
        "cut",
        "seeds",
        "epoch",
        "target",
        "target_low",
        "target_high",
        "selected",
    ]
    lines = [[*head, *names, *_WEIGHTS]]
    for (task, protocol), found in places.items():
        for one in found:
            target = one.target
            line = [task, protocol, one.run.label, f"{one.run.lr:g}", "; ".join(one.marks)]
            line += [" ".join(str(kept.run.seed) for kept in one.runs)]
            line += [_number(value) for value in (one.epoch, target.estimate, target.low, target.high, one.selected)]
            for name in MEASURES:
                both, kept = one.before_and_after(name) or (None, None), one.kept(name)
                ends = (None, None, None) if kept is None else (kept.estimate, kept.low, kept.high)
                line += [_number(value) for value in (*both, *ends)]
            lines.append([*line, *(_number(one.weights().get(name)) for name in _WEIGHTS)])
    return _csv(lines)


def claims_csv(places: Mapping[tuple[str, str], Sequence[Setting]]) -> str:
    """One line a method and question: learns less (target), and forgets less by each measure."""
    head = ["task", "method", "lr", "full_lr", "question", "seeds", "difference", "low", "high"]
    lines = [[*head, "p_t", "p_t_holm", "p_flips", "verdict", "notes", "turning"]]
    for (task, _), found in places.items():
        for one in judge(found):
            questions = {"learns less": one.learns, **{f"forgets less: {name}": of for name, of in one.forgets.items()}}
            for question, of in questions.items():
                line = [task, one.ours.run.label, f"{one.ours.run.lr:g}", f"{one.full.run.lr:g}", question]
                line += [str(of.interval.n)]
                numbers = (of.interval.estimate, of.interval.low, of.interval.high, of.p, of.adjusted, of.flips)
                lines.append([*line, *map(_number, numbers), of.word, "; ".join(one.notes), "; ".join(one.turning)])
    return _csv(lines) if len(lines) > 1 else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _csv(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
