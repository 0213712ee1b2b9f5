"""Finished runs whose retention was measured, and their means over seeds. A run without such a file is absent."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from lora2_bench.records.compact import FILE, read_compact
from lora2_bench.records.record import Record
from lora2_bench.records.retention import (
    Retention,
    compact_retention_paths,
    read_compact_retention,
    read_retention,
)
from lora2_bench.records.store import Store
from lora2_bench.report.majority import majority_score
from lora2_bench.report.runs import Run
from lora2_bench.report.selection import Selection
from lora2_bench.report.statistics.intervals import Interval, mean_interval


@dataclass(frozen=True)
class Measure:
    """One number of retention: `kept` is higher where less was forgotten.

    Attributes:
        name: for readers.
        unit: of a change.
        digits: shown of it.
    """

    name: str
    unit: str
    digits: int


MEASURES = {
    "sts": Measure("zero-shot STS-B", "points", 2),
    "probe": Measure("linear probes", "points", 2),
    "mlm": Measure("masked LM", "nats", 3),
}


@dataclass(frozen=True)
class Kept:
    """One finished run with what was measured of it.

    Attributes:
        selected: the score that chose its checkpoint, in points: on held-out rows of train under protocol clean.
        epoch: after how many epochs that checkpoint was saved, which is the one that was measured.
    """

    run: Run
    facts: Retention
    selected: float
    epoch: float

    def pair(self, measure: str) -> tuple[float, float] | None:
        """Before and after, both higher where more is known: points, and minus nats; None where it was not measured."""
        if measure == "probe":
            probes = self.facts.get("probe")
            if not probes:
                return None
            before, after = (100 * fmean(values) for values in zip(*map(_both, probes.values()), strict=True))
            return before, after
        if measure == "sts" and "sts" in self.facts:
            before, after = _both(self.facts["sts"])
            return 100 * before, 100 * after
        if measure == "mlm" and "mlm" in self.facts:
            before, after = _both(self.facts["mlm"])
            return -before, -after
        return None

    def kept(self, measure: str) -> float | None:
        """After minus before: 0 where nothing was forgotten, negative where something was."""
        pair = self.pair(measure)
        return None if pair is None else pair[1] - pair[0]

    def rows(self, measure: str) -> tuple[str, ...]:
        """The digests of what a measure was taken on; runs with others are not compared."""
        parts = self.facts.get("probe", {}) if measure == "probe" else {measure: self.facts.get(measure)}
        return tuple(f"{name} {part['sha256']}" for name, part in sorted(parts.items()) if part)  # type: ignore[index]

    def weights(self) -> dict[str, float]:
        """Means over all maps: ‖ΔW‖/‖W₀‖, effective rank, intruders a map; nothing where they were not measured."""
        found = self.facts.get("weights")
        maps = [facts for layer in found["maps"].values() for facts in layer.values()] if found else []
        if not maps:
            return {}
        return {
            "update": fmean(one["update"] for one in maps),
            "effective_rank": fmean(one["effective_rank"] for one in maps),
            "intruders": fmean(one["intruders"] for one in maps),
        }


def _both(values: object) -> tuple[float, float]:
    return values["before"], values["after"]  # type: ignore[index]  # a TypedDict with both


@dataclass(frozen=True)
class Setting:
    """Runs that differ in the seed alone, in its order.

    Attributes:
        failed: learning rate -> failed runs, of the same setting at rates where every run failed.
    """

    runs: tuple[Kept, ...]
    failed: Mapping[float, int] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        """Any of its runs, for what they share."""
        return self.runs[0].run

    @property
    def target(self) -> Interval:
        """Mean of the deciding number on dev, in points."""
        return mean_interval([score_of(one.run) for one in self.runs])

    @property
    def selected(self) -> float:
        """Mean of the scores that chose the checkpoints, in points."""
        return fmean(one.selected for one in self.runs)

    @property
    def epoch(self) -> float:
        """Mean epoch of the checkpoints that were measured."""
        return fmean(one.epoch for one in self.runs)

    @property
    def marks(self) -> tuple[str, ...]:
        """Where it leaves its recipe, but for the learning rate."""
        return tuple(mark for mark in self.run.obstacles if not mark.startswith("train.lr="))

    @property
    def unlearnt(self) -> int:
        """How many runs score no more on dev than the most frequent class for every row, or in a regression than 0."""
        return sum(score_of(one.run) <= (majority_score(one.run.record) or 0.0) + 1e-9 for one in self.runs)

    @property
    def early(self) -> int:
        """How many checkpoints are from before the method's rank budget was met."""
        return sum(one.run.is_early(one.run.protocol) for one in self.runs)

    def kept(self, measure: str) -> Interval | None:
        """Mean change of a measure; None where no run has it."""
        values = [value for one in self.runs if (value := one.kept(measure)) is not None]
        return mean_interval(values) if values else None

    def before_and_after(self, measure: str) -> tuple[float, float] | None:
        """Means of both; None where no run has the measure."""
        pairs = [pair for one in self.runs if (pair := one.pair(measure)) is not None]
        return (fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs)) if pairs else None

    def weights(self) -> dict[str, float]:
        """Means of `Kept.weights` over the runs that have them."""
        found = [values for one in self.runs if (values := one.weights())]
        return {name: fmean(values[name] for values in found) for name in found[0]} if found else {}


def score_of(run: Run) -> float:
    """The deciding number on dev, in points, of the checkpoint that was chosen and measured."""
    return run.scores[run.protocol]


def settings(selection: Selection, store: Store) -> list[Setting]:
    """Every setting with measured runs, by backbone and data, task, protocol, method and learning rate.

    Trials are left out, and stale runs but those of an exhibit's or a study's own file, which were made together. How
    many stale ones is told on stderr; a file that cannot be used is named there, and its runs are left out.
    """
    groups: dict[tuple[object, ...], list[Kept]] = {}
    compact, stale = _compact(store), 0
    for run in selection.finished:
        if (found := _own(run, store) or compact.get(run.id)) is None:
            continue
        if run.id in selection.stale and run.id not in compact:
            stale += 1
            continue
        facts, record = found
        if not record.is_done or facts["step"] != record.result["best"]["step"]:
            continue
        evaluations = record.result["evaluations"]
        selected = 100 * max(one["score"] for one in evaluations)
        epoch = next(float(one["epoch"]) for one in evaluations if one["step"] == facts["step"])
        key = (run.folder, run.task, run.protocol, len(run.label), run.label, run.lr, run.science)
        groups.setdefault(key, []).append(Kept(run, facts, selected, epoch))
    if stale:
        print(f"warning: {stale} measured runs are left out: made by older code than others of theirs", file=sys.stderr)
    lost = _lost(selection) if groups else {}
    return [
        Setting(tuple(sorted(same, key=lambda one: one.run.seed)), lost.get(_place(same[0].run), {}))
        for same in (groups[key] for key in sorted(groups, key=str))
    ]


def _lost(selection: Selection) -> dict[tuple[str, ...], dict[float, int]]:
    """Of each setting without its learning rate: rate -> failed runs, where none finished."""
    failed = [run for run in selection.runs if not run.done]
    if not failed:  # most stores: what every run's settings are need not be asked
        return {}
    finished = {(_place(run), run.lr) for run in selection.finished}
    found: dict[tuple[str, ...], dict[float, int]] = {}
    for run in failed:
        if (_place(run), run.lr) not in finished:
            counts = found.setdefault(_place(run), {})
            counts[run.lr] = counts.get(run.lr, 0) + 1
    return found


def _place(run: Run) -> tuple[str, ...]:
    return run.folder, run.task, run.label, run.without_lr


def _own(run: Run, store: Store) -> tuple[Retention, Record] | None:
    """What lies in the run's own folder, with its record."""
    path = store.retention(run.id)
    try:
        facts = read_retention(path, run.id)
    except ValueError as error:
        print(f"warning: {path} is skipped: {error}", file=sys.stderr)
        return None
    record = None if facts is None else store.read(run.id)
    return None if facts is None or record is None else (facts, record)


def _compact(store: Store) -> dict[str, tuple[Retention, Record]]:
    """What exhibits and studies have committed, with the records beside it."""
    found: dict[str, tuple[Retention, Record]] = {}
    for path in compact_retention_paths(store.results):
        try:
            facts = read_compact_retention(path)
            records = {record.id: record for record in read_compact(path.with_name(FILE))}
        except (ValueError, OSError) as error:
            print(f"warning: {path} is skipped: {error}", file=sys.stderr)
            continue
        found |= {name: (facts[name], records[name]) for name in facts.keys() & records.keys()}
    return found


def by_place(found: Sequence[Setting]) -> dict[str, dict[tuple[str, str], list[Setting]]]:
    """Folder -> (task, protocol) -> its settings."""
    places: dict[str, dict[tuple[str, str], list[Setting]]] = {}
    for one in found:
        places.setdefault(one.run.folder, {}).setdefault((one.run.task, one.run.protocol), []).append(one)
    return {folder: {key: _in_order(of[key]) for key in sorted(of)} for folder, of in sorted(places.items())}


def _in_order(found: Sequence[Setting]) -> list[Setting]:
    """Full fine-tuning first, then methods by name, size and learning rate."""
    return sorted(
        found,
        key=lambda one: (
            one.run.method_name != "full",
            one.run.method_name,
            one.run.record.result["size"]["value"] or 0,
            one.run.label,
            one.run.lr,
        ),
    )
