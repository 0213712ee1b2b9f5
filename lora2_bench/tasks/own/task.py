"""`OwnTask`: one YAML's columns, labels, metrics and files, checked, and read as rows (docs/OWN_TASKS.md)."""

from __future__ import annotations

import difflib
import math
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.files.digests import Stamped
from lora2_bench.files.paths import user_path
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.own.tables import Columns, read_columns, stamps
from lora2_bench.tasks.spec import TASKS, TaskSpec, own_spec

KEYS = ("name", "columns", "label", "labels", "metrics", "main", "files", "choices", "recipe_of")
"""What a task's YAML may have; `recipe_of` is for conf/recipe alone."""
CHOICE = "choice"
"""What a column's template calls the choice of a row, where the task has `choices`."""
_SPLITS = ("train", "dev")
_TRUTHS = ("yes", "no", "on", "off")  # what YAML reads as truth values where no quotes are around them
_PLACE = re.compile(r"\{([^{}]+)\}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class OwnTask:
    """A user's own task, before its files are read.

    Attributes:
        spec: its columns, labels and metrics; rows and digests are those of no file yet.
        templates: of each column, the text with `{NAME}` for the file's column NAME.
        label: the file's column of labels.
        files: those of train and dev.
        choices: the file's columns of which one is right, the label counting them from 0; empty for any other task.
    """

    spec: TaskSpec
    templates: tuple[str, ...]
    label: str
    files: tuple[Path, Path]
    choices: tuple[str, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any], folder: str | None) -> OwnTask:
        """The task of a config's section, its files below `folder` (None: where the command runs). Raises UserError."""
        for key in values:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, n=1)
                raise UserError(
                    f"task.{key} is not a setting: "
                    + (f"did you mean task.{near[0]}?" if near else f"give one of {', '.join(KEYS)}")
                )
        for key in ("columns", "labels", "metrics", "files"):
            if values.get(key) is None:
                raise UserError(f"task.{key} has no value: write it into the file of task={values['name']}")
        columns = values["columns"]
        if isinstance(columns, Mapping):
            named = {str(name): text for name, text in columns.items()}
            if not all(isinstance(text, str) and _PLACE.search(text) for text in named.values()):
                raise _wrong("columns", columns, "names of columns, or NAME: 'a text with {FILE_COLUMN} in it'")
        else:
            named = {name: f"{{{name}}}" for name in _words(values, "columns")}
        metrics = _words(values, "metrics")
        spec = own_spec(
            str(values["name"]),
            list(named),
            _words(values, "labels"),
            metrics,
            metrics[:1] if values.get("main") is None else _words(values, "main"),
            dict.fromkeys(_SPLITS, 1),
            dict.fromkeys(_SPLITS, ""),
        )
        if (lender := values.get("recipe_of")) is not None and lender not in TASKS:
            raise _wrong("recipe_of", lender, f"null, or the task whose recipe it takes: {', '.join(TASKS)}")
        choices = tuple(_words(values, "choices")) if values.get("choices") is not None else ()
        if choices and (len(choices) < 2 or len(spec.labels) != 2):
            raise _wrong(
                "choices", choices, "two columns or more, of a task of two labels: those of a wrong and of a right one"
            )
        if choices and not any(f"{{{CHOICE}}}" in text for text in named.values()):
            raise _wrong("columns", columns, f"with {{{CHOICE}}} in one of their texts, for task.choices")
        label = values.get("label", "label")
        if not isinstance(label, str):
            raise _wrong("label", label, "the name of the column of labels")
        return cls(spec, tuple(named.values()), label, _files(values["files"], folder), choices)

    def read(self) -> TaskData:
        """The rows, with the task as their files make it. Read once a process, while the files do not change.

        Raises UserError for files that are missing, malformed or the same, in one line with the place.
        """
        return _read(self, tuple(chain.from_iterable(stamps(path) for path in self.files)))

    @property
    def file_columns(self) -> list[str]:
        """The columns of the files that are read."""
        named = [name for text in self.templates for name in _PLACE.findall(text)]
        texts = [name for name in named if not (self.choices and name == CHOICE)]
        return list(dict.fromkeys([*texts, *self.choices, self.label]))


def _wrong(setting: str, value: object, allowed: str) -> UserError:
    return UserError(f"task.{setting}={str(value)[:200]} is not possible: task.{setting} must be {allowed}")


def _words(values: Mapping[str, Any], key: str) -> list[str]:
    """A list of words, numbers and truth values as words; one alone is a list of one."""
    given = values[key]
    items = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(one, str | int | float) for one in items):
        raise _wrong(key, given, "a list of words")
    return [_word(one) for one in items]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _files(given: Any, folder: str | None) -> tuple[Path, Path]:
    if (
        not isinstance(given, Mapping)
        or set(given) != {*_SPLITS}
        or not all(isinstance(one, str) for one in given.values())
    ):
        raise _wrong("files", given, "a path for train and one for dev, as in {train: train.csv, dev: dev.csv}")
    base = Path() if folder is None else user_path(folder, "data.dir")
    train, dev = (base / user_path(given[split], f"task.files.{split}") for split in _SPLITS)
    return train, dev


@lru_cache(maxsize=4)
def _read(task: OwnTask, _: Stamped) -> TaskData:
    splits = dict(zip(_SPLITS, (_split(task, path) for path in task.files), strict=True))
    data = TaskData(task.spec, "local", splits)
    rows, content = data.rows, {name: data.content_hash(name) for name in _SPLITS}
    data = replace(data, spec=replace(task.spec, rows=rows, content=content))
    train, dev = (_rows(splits[name]) for name in _SPLITS)
    if both := sum(row in train for row in dev):
        names = [f"{path.parent.name}/{path.name}" for path in task.files]
        if both == len(dev):
            raise UserError(f"every row of {names[1]} is in {names[0]} too: give a dev of rows that are not trained on")
        data.notes.append(f"{both} of {len(dev)} different rows of {names[1]} are in {names[0]} too")
        print(f"warning: {data.notes[-1]}: they tell nothing of new rows", file=sys.stderr)
    return data


def _rows(split: Split) -> set[tuple[Any, ...]]:
    return set(zip(*split.texts.values(), split.labels, strict=True))


def _split(task: OwnTask, path: Path) -> Split:
    found = read_columns(path, task.file_columns)
    texts: dict[str, list[str]] = {name: [] for name in task.spec.columns}
    labels: list[Any] = []
    for row, values in enumerate(_each_row(found)):
        label = _label(task, found, row, values.pop(task.label))
        for name, text in values.items():
            _check_text(found, row, name, text)
        for number, choice in enumerate(task.choices or (None,)):
            of_choice = values if choice is None else {**values, CHOICE: values[choice]}
            for name, template in zip(task.spec.columns, task.templates, strict=True):
                texts[name].append(_PLACE.sub(lambda place: of_choice[place[1]], template))  # noqa: B023 - at once
            labels.append(label if choice is None else int(label == number))
    return Split(texts, labels)


def _each_row(found: Columns) -> Iterator[dict[str, Any]]:
    names: Sequence[str] = list(found.values)
    for values in zip(*found.values.values(), strict=True):
        yield dict(zip(names, values, strict=True))


def _check_text(found: Columns, row: int, name: str, text: object) -> None:
    why = ""
    if not isinstance(text, str):
        why = "is no text" if text is not None else "is null"
    elif "\0" in text:
        why = "has a NUL byte"
    elif not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        why = "has half a character"
    if why:
        raise UserError(f"{found.place(row)}: {name} {why}: mend the row")


def _label(task: OwnTask, found: Columns, row: int, value: Any) -> int | float:
    if task.spec.is_regression:
        return _score(found.place(row), task.label, value)
    names = found.classes.get(task.label)
    if names is not None and isinstance(value, int):
        if not 0 <= value < len(names):
            raise UserError(f"{found.place(row)}: {task.label} {value} is no label of the file: give rows with labels")
        value = names[value]
    word = _word(value)
    allowed = [str(number) for number in range(len(task.choices))] or list(task.spec.labels)
    if word not in allowed:
        told = ", ".join(allowed)
        why = f"is no number of a choice ({told})" if task.choices else f"is not listed (task.labels: {told})"
        fix = (
            "quote yes and no in the YAML"
            if word.lower() in _TRUTHS and "true" in allowed
            else "mend the row or the task"
        )
        raise UserError(f"{found.place(row)}: label {word[:40]!r} {why}: {fix}")
    return allowed.index(word)


def _score(place: str, name: str, value: Any) -> float:
    """A score, rounded to float32 as those of GLUE are."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        try:
            (rounded,) = struct.unpack("f", struct.pack("f", float(value)))
        except OverflowError:
            rounded = math.inf
        if math.isfinite(rounded):
            return float(rounded)
    raise UserError(f"{place}: {name} {str(value)[:40]!r} is no finite number: mend it, or list task.labels")
