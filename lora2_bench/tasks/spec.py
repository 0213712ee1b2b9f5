"""What each task is: text columns, labels in GLUE's order, metrics and official row counts. Pure data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lora2_bench.errors import UserError

CLASS_METRICS = ("accuracy", "f1", "macro_f1", "matthews_correlation")
SCORE_METRICS = ("pearson", "spearman")
_OF_TWO = ("f1", "matthews_correlation")  # f1 is that of class 1
_OWN_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


@dataclass(frozen=True)
class TaskSpec:
    """One task: of GLUE, of the package, or a user's own.

    Attributes:
        name: lower-case name, as in `task=rte`.
        columns: the one or two text columns, named as in the hub's `nyu-mll/glue`.
        labels: class names in the hub's order (index = label id); empty for the regression task.
        metrics: every metric reported on one evaluation split.
        main: the metrics whose mean (over dev splits too) is the task's deciding number.
        rows: official row counts per split (the hub's, and of the download script's TSV files); of a task of the
            package those that are generated, of a user's own those of its files.
        dev_splits: evaluation splits; MNLI has two.
        content: split -> digest of the rows of the download script's TSV file, for files that were at hand whole:
            `TaskData.content_hash`, and of test files, which have no labels, `data.texts_hash`. Of a user's own task
            that of its files' rows.
        folder: the folder's name in the official TSV layout; of a user's own task its name.
        is_own: whether it is a user's own, which its cells carry the definition of.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    main: tuple[str, ...]
    folder: str
    rows: dict[str, int] = field(hash=False)
    dev_splits: tuple[str, ...] = ("dev",)
    content: dict[str, str] = field(default_factory=dict, hash=False)
    is_own: bool = False

    @property
    def is_regression(self) -> bool:
        """True where the label is a score (STS-B: 0 to 5)."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Outputs of the classification head: one per class, or one for a regression."""
        return len(self.labels) or 1

    @property
    def splits(self) -> tuple[str, ...]:
        """The labelled splits: train, then every dev split."""
        return ("train", *self.dev_splits)

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The splits whose labels only GLUE's server has."""
        return tuple(name for name in self.rows if name.startswith("test"))

    @property
    def definition(self) -> dict[str, Any]:
        """What a cell of an own task carries of it, as `own_spec` takes it beside the name."""
        texts = {name: list(getattr(self, name)) for name in ("columns", "labels", "metrics", "main")}
        return {**texts, "rows": dict(self.rows), "sha256": dict(self.content)}


_NOT_ENTAILMENT = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="cola",
            columns=("sentence",),
            labels=("unacceptable", "acceptable"),
            metrics=("matthews_correlation", "accuracy"),
            main=("matthews_correlation",),
            folder="CoLA",
            rows={"train": 8551, "dev": 1043, "test": 1063},
            content={
                "train": "4c3f16d5be951b8470f7fdaf301cbc692e1fa809b2e0a42bc2931c346f8bce2f",
                "dev": "723ca03b4dd6f8644dc3a0d1fd809917d0c5d9e971ba9cebe293a2939ddd1ccb",
                "test": "7b9c9557d90026c3e524b602bfc99346a9b54089d5cfd58be8b65ac213fa3064",
            },
        ),
        TaskSpec(
            name="sst2",
            columns=("sentence",),
            labels=("negative", "positive"),
            metrics=("accuracy",),
            main=("accuracy",),
            folder="SST-2",
            rows={"train": 67349, "dev": 872, "test": 1821},
        ),
        TaskSpec(
            name="mrpc",
            columns=_PAIR,
            labels=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            main=("accuracy",),
            folder="MRPC",
            rows={"train": 3668, "dev": 408, "test": 1725},
            content={
                "train": "2230dbf434d68f41706c5e294f1bd2ff4d8af2644bf7c9c79a2be33bd6f06042",
                "dev": "6e4b0acd01ea7973bdc6e446955bd66fcde372ca38a4e6e2d277992f5a92262a",
                "test": "080ea794905433b05b22d2023477f317076a71a000734d65dd5df65495b5470b",
            },
        ),
        TaskSpec(
            name="qqp",
            columns=("question1", "question2"),
            labels=("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
            main=("accuracy", "f1"),
            folder="QQP",
            rows={"train": 363846, "dev": 40430, "test": 390965},
        ),
        TaskSpec(
            name="stsb",
            columns=_PAIR,
            labels=(),
            metrics=("pearson", "spearman"),
            main=("pearson",),
            folder="STS-B",
            rows={"train": 5749, "dev": 1500, "test": 1379},
            content={
                "train": "feed05d13dcf1ef351dda7692a0eb311f78be43ef0a85a19b563aaeaec6cce4f",
                "dev": "2c72130b34e6a8c73e3d7fac0d076897ddde6a4c5fbd6664cb9246893da5968a",
                "test": "75b660e62095bec34b123ca726c572cad77ee5bcaaeb3c955ca13555f6e014dd",
            },
        ),
        TaskSpec(
            name="mnli",
            columns=("premise", "hypothesis"),
            labels=("entailment", "neutral", "contradiction"),
            metrics=("accuracy",),
            main=("accuracy",),
            folder="MNLI",
            rows={
                "train": 392702,
                "dev_matched": 9815,
                "dev_mismatched": 9832,
                "test_matched": 9796,
                "test_mismatched": 9847,
            },
            dev_splits=("dev_matched", "dev_mismatched"),
        ),
        TaskSpec(
            name="qnli",
            columns=("question", "sentence"),
            labels=_NOT_ENTAILMENT,
            metrics=("accuracy",),
            main=("accuracy",),
            folder="QNLI",
            rows={"train": 104743, "dev": 5463, "test": 5463},
            content={
                "dev": "bd59c081b23cb3295a7b7c0efb9479f6904824be2e2fcc1af67d01e7fded9c20",
            },
        ),
        TaskSpec(
            name="rte",
            columns=_PAIR,
            labels=_NOT_ENTAILMENT,
            metrics=("accuracy",),
            main=("accuracy",),
            folder="RTE",
            rows={"train": 2490, "dev": 277, "test": 3000},
            content={
                "train": "45f4c4d260ed7bb301b8bf230f63ae9b8b688ad28726c4ea9551be2a6e72bb6c",
                "dev": "ee7d71bbf8eceb5ad308382b6bdb3ddc13ad2681fbb981d5dad994c879dcffc5",
                "test": "b82926dac1205510138d58308dbb5828b0d86b1aa2503c9a3ba7896f6afa26c1",
            },
        ),
        TaskSpec(
            name="wnli",
            columns=_PAIR,
            labels=("not_entailment", "entailment"),
            metrics=("accuracy",),
            main=("accuracy",),
            folder="WNLI",
            rows={"train": 635, "dev": 71, "test": 146},
        ),
    )
}

AX = replace(TASKS["mnli"], name="ax", folder="diagnostic", rows={"test": 1104}, dev_splits=())
"""GLUE's diagnostic set: test rows alone, which MNLI's cell answers."""


def test_parts(spec: TaskSpec) -> dict[str, tuple[TaskSpec, str]]:
    """Name of a part of what a cell of this task predicts -> the spec and the split of its rows."""
    parts = {split: (spec, split) for split in spec.test_splits}
    return {**parts, AX.name: (AX, "test")} if spec.name == "mnli" else parts


OWN_TASKS: dict[str, TaskSpec] = {
    "distant": TaskSpec(
        name="distant",
        columns=("passage", "statement"),
        labels=_NOT_ENTAILMENT,
        metrics=("accuracy",),
        main=("accuracy",),
        folder="Distant",
        rows={"train": 2000, "dev": 400},
    )
}
"""Tasks of the package, which data=mini alone has: no files of them exist."""
ALL_TASKS = TASKS | OWN_TASKS


def task_spec(name: str) -> TaskSpec:
    """The task called `name`, of GLUE or the package. Raises UserError for any other."""
    try:
        return ALL_TASKS[name]
    except KeyError:
        raise UserError(f"task={name} is not a task: choose one of {', '.join(ALL_TASKS)}, or {HOW_TO_ADD}") from None


PAGE = "docs/OWN_TASKS.md"
HOW_TO_ADD = f"add one of your own as DIR/task/NAME.yaml with --config-dir=DIR ({PAGE})"


def spec_of(name: str, definition: Mapping[str, Any] | None = None) -> TaskSpec:
    """The task of a cell: that of GLUE or the package, or a user's own by the cell's definition. Raises UserError."""
    if definition is None:
        return task_spec(name)
    if {*definition} != {"columns", "labels", "metrics", "main", "rows", "sha256"}:
        raise UserError(f"the definition of task={name} has other parts than this version reads: give the cell's own")
    return own_spec(name, **definition)


def own_spec(
    name: str,
    columns: Sequence[str],
    labels: Sequence[str],
    metrics: Sequence[str],
    main: Sequence[str],
    rows: Mapping[str, int],
    sha256: Mapping[str, str],
) -> TaskSpec:
    """A user's own task. Raises UserError, naming the setting, for a definition that is none."""
    _require(name not in ALL_TASKS, "name", name, "a name of your own: this is a task of the package")
    _require(
        _OWN_NAME.fullmatch(name) is not None, "name", name, "letters a-z, digits and _, at most 60, a letter first"
    )
    texts = [one for one in columns if one and one.isprintable()]
    plain = len(texts) == len(columns) == len(set(texts)) and len(texts) in (1, 2) and "label" not in texts
    _require(plain, "columns", columns, "one or two different names of texts, none of them label")
    listed = len(set(labels)) == len(labels) != 1 and all(one and one.isprintable() for one in labels)
    _require(listed, "labels", labels, "two or more different labels, or [] for a score")
    every: tuple[str, ...] = CLASS_METRICS if labels else SCORE_METRICS
    known = tuple(one for one in every if len(labels) <= 2 or one not in _OF_TWO)
    for setting, given in (("metrics", metrics), ("main", main)):
        one = next((one for one in given if one not in known), "")
        kind = f"of {len(labels)} labels" if labels else "of a score"
        _require(not one, setting, one, f"of {', '.join(known)}, the metrics {kind}")
        _require(0 < len(given) == len(set(given)), setting, given, f"one or more of {', '.join(known)}")
    _require(set(main) <= set(metrics), "main", main, f"among task.metrics={_listed(metrics)}")
    whole = set(rows) == set(sha256) == {"train", "dev"} and min(rows.values()) > 0
    _require(whole, "rows", rows, "counts and digests of train and dev")
    return TaskSpec(
        name, tuple(columns), tuple(labels), tuple(metrics), tuple(main), name, dict(rows), content=dict(sha256),
        is_own=True,
    )  # fmt: skip


def _require(ok: bool, setting: str, value: object, allowed: str) -> None:
    if not ok:
        raise UserError(f"task.{setting}={_listed(value)} is not possible: task.{setting} must be {allowed}")


def _listed(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def in_order(tasks: Iterable[str]) -> list[str]:
    """Names of tasks, each once: those of the package in its order, then a user's own by name."""
    known = list(ALL_TASKS)
    return sorted(set(tasks), key=lambda name: (known.index(name) if name in known else len(known), name))


def check_source(spec: TaskSpec, source: str) -> None:
    """Raise UserError where no rows of the task come from `source`."""
    if spec.name in OWN_TASKS and source != "mini":
        raise UserError(f"task={spec.name} is made by the package and is not in data={source}: give data=mini")
    if spec.is_own and source != "local":
        raise UserError(f"task={spec.name} has files of its own and is not in data={source}: leave data={source} out")
