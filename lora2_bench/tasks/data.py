"""A task's rows in memory, whatever their source: `Split`, `TaskData`, and the content hash."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass, field

from lora2_bench.errors import UserError
from lora2_bench.tasks.spec import TaskSpec

_SCORE_RANGE = (0.0, 5.0)
_PLAIN_NUMBER = re.compile(r"[0-9A-Za-z.+-]+")


@dataclass(frozen=True)
class Split:
    """Rows of one split, in GLUE's own columns.

    Attributes:
        texts: text column name -> one string per row, in the spec's column order.
        labels: class ids in the spec's label order, or scores for a regression.
    """

    texts: dict[str, list[str]]
    labels: list[int] | list[float]

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, rows: int | None) -> Split:
        """The first `rows` rows (all of them for None)."""
        return Split({name: column[:rows] for name, column in self.texts.items()}, self.labels[:rows])

    def take(self, index: list[int]) -> Split:
        """The rows at `index`, in that order."""
        texts = {name: [column[i] for i in index] for name, column in self.texts.items()}
        return Split(texts, [self.labels[i] for i in index])


@dataclass(frozen=True)
class TaskData:
    """The labelled splits of one task from one source.

    Attributes:
        source: "mini", "local" or "hub".
        splits: one `Split` per name in `spec.splits`.
        notes: what a reader of the record must know of these rows (rows left out, and why).
        altered: splits of GLUE's number of rows whose content is known not to be GLUE's.
    """

    spec: TaskSpec
    source: str
    splits: dict[str, Split]
    notes: list[str] = field(default_factory=list)
    altered: tuple[str, ...] = ()

    @property
    def rows(self) -> dict[str, int]:
        """Row counts per split."""
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def is_official(self) -> bool:
        """True where every split has GLUE's own number of rows, no altered ones, and none made by this package."""
        whole = all(self.rows[name] == self.spec.rows[name] for name in self.spec.splits)
        return self.source != "mini" and whole and not self.altered

    def content_hash(self, *splits: str) -> str:
        """SHA-256 over texts and labels in order, of all splits or of some: equal rows have one hash."""
        digest = hashlib.sha256()
        for name in splits or self.spec.splits:
            split = self.splits[name]
            columns = [split.texts[column] for column in self.spec.columns]
            for row in zip(*columns, split.labels, strict=True):
                digest.update(json.dumps([name, *row], ensure_ascii=False).encode())
        return digest.hexdigest()


def unlabelled(spec: TaskSpec, texts: dict[str, list[str]], name: str) -> Split:
    """A split whose every label is -1, as the hub marks rows without one. Raises UserError for a file without rows."""
    rows = len(texts[spec.columns[0]])
    if not rows:
        raise UserError(f"{name} holds no rows: put the official file in its place")
    return Split(texts, [-1.0] * rows if spec.is_regression else [-1] * rows)


def texts_hash(split: Split) -> str:
    """SHA-256 over a split's texts in order: equal rows give an equal hash from any source."""
    digest = hashlib.sha256()
    for row in zip(*split.texts.values(), strict=True):
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def parse_score(value: str | float) -> float:
    """A similarity score, rounded to float32 as the hub stores it, so that both layouts give equal rows.

    Raises ValueError with the reason for text that is no number and for a score outside 0 to 5.
    """
    low, high = _SCORE_RANGE
    try:
        if isinstance(value, str) and not _PLAIN_NUMBER.fullmatch(value):  # float() takes 0_1, spaces and other digits
            raise ValueError
        number = float(value)
    except ValueError:
        raise ValueError(f"score {str(value)[:40]!r} is not a number: must be {low:g} to {high:g}") from None
    if not low <= number <= high:  # nan fails this too
        raise ValueError(f"score {value} is outside {low:g} to {high:g}")
    (rounded,) = struct.unpack("f", struct.pack("f", number))
    return float(rounded)
