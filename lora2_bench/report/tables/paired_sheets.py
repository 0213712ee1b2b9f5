"""The sheets of the comparisons: over tasks, task by task, and whether LoRA² k=1 is no worse than LoRA r=8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from lora2_bench.experiment.suites import rows
from lora2_bench.report.comparisons import AVERAGE, EIGHT
from lora2_bench.report.tables.layouts import exhibits
from lora2_bench.report.tables.paired import IN_FAMILY, IS_NO_WORSE, IS_PRIMARY, MARGIN, PRIMARY
from lora2_bench.report.tables.render import Sheet, Text
from lora2_bench.report.tables.sheets import PROTOCOLS, SAME_FUNCTIONS, name_of, signed

_DASH = "–"
_NOTE = (
    "Ours minus the other's in points, over n pairs of seeds{averaged}: mean, Student's t interval, p of the paired t "
    "test, the same adjusted by Holm over {family}, and p of the exact sign-flip test. Detectable: the smallest true "
    "difference that the t test finds with these pairs, at 5 % before Holm, in 80 % of cases. n needed: by the "
    "same test for the claimed difference, the paper's by its cells where it prints one, else 1 point. – stands where "
    "the spread is unknown: one pair, or equal differences."
)
_REFUTED = (
    "Claims in brackets, and their n, are by the paper's printed averages, of which LoRA² k=8's does not follow "
    "from its cells."
)


def paired_sheets(table: pd.DataFrame, model: str, data: str, passed_over: int) -> list[Sheet]:
    """Up to three sheets per protocol, from the lines of `paired`'s table for one backbone and data source."""
    exhibit = exhibits()["table1"]
    title = name_of(exhibit.title, "LoRA² against the others", exhibit.suite.model, model, data)
    found: list[Sheet] = []
    for protocol, meaning in PROTOCOLS.items():
        part = table[table["protocol"] == protocol]
        compared, no_worse = part[part["role"] != IS_NO_WORSE], part[part["role"] == IS_NO_WORSE]
        averages, tasks = compared[compared["task"] == AVERAGE], compared[compared["task"] != AVERAGE]
        if len(averages):
            found.append(_over_tasks(averages, f"{title}, paired, over tasks; {meaning}", protocol))
        if len(no_worse):
            found.append(_no_worse(no_worse, f"{title}, no worse by more than {MARGIN:g} points?; {meaning}", protocol))
        if len(tasks):
            found.append(_by_task(tasks, f"{title}, paired, task by task; {meaning}", passed_over))
    return found


def _over_tasks(part: pd.DataFrame, title: str, protocol: str) -> Sheet:
    lines = [
        [row["method"], row["other"], _tasks(row), str(row["n"]), *_effect(row), *_tests(row), *_design(row)]
        for row in _rows(part)
    ]
    header = ["ours", "other", "tasks", "n", "difference", "95 % interval", "t p", "Holm p", "flip p"]
    notes = [_note(part, ", each the average over the tasks that both have")]
    if part["claimed_printed"].notna().any():
        notes.append(_REFUTED)
    notes.append(
        "Primary comparison, named in advance and not adjusted: LoRA² k=1 against LoRA r=1"
        + (", here." if protocol == PRIMARY[0] else f", of protocol `{PRIMARY[0]}`, where no score is chosen on dev.")
    )
    labels = [rows()[name].label for name in PRIMARY[1:]]
    if ((part["method"] == labels[0]) & (part["other"] == labels[1])).any():
        notes.append(SAME_FUNCTIONS)
    return _sheet(title, [*header, "detectable", "claimed", "n needed"], 2, lines, [*notes, *_looks(part)])


def _by_task(part: pd.DataFrame, title: str, passed_over: int) -> Sheet:
    lines = [
        [row["method"], row["other"], row["task"], str(row["n"]), *_effect(row), *_tests(row),
         _number(row["mcnemar_p"], 4), *_design(row)]
        for row in _rows(part)
    ]  # fmt: skip
    header = ["ours", "other", "task", "n", "difference", "95 % interval", "t p", "Holm p", "flip p"]
    notes = [_note(part, ""), *_looks(part)]
    if passed_over:
        why = f"Predictions of {passed_over} cell(s) were not read, for their size or their number"
        notes.append(f"{why}: no McNemar test there.")
    return _sheet(title, [*header, "McNemar p", "detectable", "claimed", "n needed"], 3, lines, notes)


def _no_worse(part: pd.DataFrame, title: str, protocol: str) -> Sheet:
    lines = []
    for row in _rows(part):
        p = row["no_worse_p"]
        shown = _DASH if pd.isna(p) else "no worse" if p < 0.025 else "not shown"
        numbers = [_number(p, 4), shown, _number(row["seeds_needed"], 0)]
        who = [row["method"], row["other"], _tasks(row), str(row["n"])]
        lines.append([*who, *_effect(row), f"{row['margin']:g}", *numbers])
    header = ["ours", "other", "tasks", "n", "difference", "95 % interval", "margin", "one-sided p", "so"]
    notes = [
        "Average over tasks. No worse: the whole 95 % interval of the difference lies above minus the margin, which "
        "is p under 0.025 of a one-sided paired t test. Not shown is not worse. The margin was named in advance "
        "(docs/STATISTICS.md). n needed: to show it in 80 % of cases where both are equally good.",
    ]
    if protocol != PRIMARY[0]:
        notes.append(f"The test named in advance is that of protocol `{PRIMARY[0]}`.")
    return _sheet(title, [*header, "n needed"], 2, lines, [*notes, *_looks(part)])


def _sheet(title: str, header: list[str], left: int, lines: list[list[str]], notes: list[str]) -> Sheet:
    return Sheet(title, header, left, [[Text(text) for text in line] for line in lines], notes=notes)


def _tasks(row: Mapping[Any, Any]) -> str:
    found = len(row["tasks"].split())
    return str(found) if found == len(EIGHT) else f"{found} of {len(EIGHT)}"


def _rows(part: pd.DataFrame) -> Iterator[dict[Any, Any]]:
    yield from part.to_dict("records")


def _note(part: pd.DataFrame, averaged: str) -> str:
    members = part[part["role"] == IN_FAMILY]
    size = members["family"].max() if len(members) else 0
    others = "" if len(members) == len(part) else " but the primary one"
    return _NOTE.format(averaged=averaged, family=f"the comparisons of this table{others} ({size} could be tested)")


def _looks(part: pd.DataFrame) -> list[str]:
    unequal = int((part["looks"] != part["other_looks"]).sum())
    said = "looks at dev are unequal (`looks` in the CSV file), and a best score rises with them"
    return [f"In {unequal} of {len(part)} comparisons {said}."] if unequal else []


def _number(value: Any, digits: int) -> str:
    return _DASH if pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")


def _effect(row: Mapping[Any, Any]) -> list[str]:
    difference = _DASH if pd.isna(row["difference"]) else signed(row["difference"])
    low, high = _number(row["low"], 2), _number(row["high"], 2)
    return [difference, _DASH if low == _DASH else f"{low} to {high}"]


def _tests(row: Mapping[Any, Any]) -> list[str]:
    adjusted = IS_PRIMARY if row["role"] == IS_PRIMARY else _number(row["holm_p"], 4)
    return [_number(row["t_p"], 4), adjusted, _number(row["sign_flip_p"], 4)]


def _design(row: Mapping[Any, Any]) -> list[str]:
    claimed, needed = _number(row["claimed"], 2), _number(row["seeds_needed"], 0)
    if not pd.isna(row["claimed_printed"]):
        claimed += f" ({_number(row['claimed_printed'], 2)})"
        needed += f" ({_number(row['seeds_needed_printed'], 0)})" if needed != _DASH else ""
    return [_number(row["detectable"], 2), claimed, needed]
