"""What of a results folder can be served: one entry a finished cell, found by task, method and seed.

Nothing is read here but records: weights are read when a request first needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError, one_line_of
from lora2_bench.experiment.cell import Model
from lora2_bench.experiment.checks import section
from lora2_bench.files.digests import hash_folder
from lora2_bench.files.paths import results_folder, shortened, user_path
from lora2_bench.records.identity import AT, LEFT_OUT
from lora2_bench.records.record import Record
from lora2_bench.records.store import WEIGHTS, read_record, record_paths
from lora2_bench.tasks.spec import TaskSpec

SERVED = {
    "lora": "lora2_bench.methods.lora.LoRA",
    "adalora": "lora2_bench.methods.adalora.AdaLoRA",
    "sora": "lora2_bench.methods.sora.SoRA",
    "lora2": "lora2_bench.methods.lora2.LoRA2",
    "dylora": "lora2_bench.methods.dylora.DyLoRA",
    "vera": "lora2_bench.methods.vera.VeRA",
}
"""Methods whose effect on a frozen map is a low-rank product beside it -> their own class; a record's word of another
class is not followed, for to import it would run code that data names."""
_SIZES, _RANK = ("r", "k"), "rank"  # words of `Library.fitting`
_LISTED = 6


@dataclass(frozen=True)
class Entry:
    """One finished cell that can be served: nothing but its record was read.

    Attributes:
        id: of the cell; `ID@4` at rank 4 of a method that serves several.
        model: the backbone's name.
        method: the method's label, with its size.
        labels: class names in the order of the logits; None for a regression.
        score: at the best checkpoint, which is the one that is served.
        pair: whether the task takes two texts.
        max_length: tokens to which its own rows were cut.
        folder: the cell's own.
        rank: the rank that it is served at, where it is not all that was trained.
        options: of the method, as the record has them.
    """

    id: str
    model: str
    task: str
    method: str
    seed: int
    labels: tuple[str, ...] | None
    score: float
    pair: bool
    max_length: int
    folder: Path
    rank: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @property
    def cell(self) -> str:
        """The cell's id, without a rank."""
        return self.id.partition(AT)[0]

    @property
    def outputs(self) -> int:
        """Outputs of its head."""
        return len(self.labels or (None,))


class Library:
    """The cells below a results folder that one backbone can serve.

    Attributes:
        entries: id -> entry, in the order of ids; nothing for an empty folder.
        refused: id (a folder's name) -> why it cannot be served, in one line.
        backbone: what pins the entries' one backbone; None without entries.
        model_path: the folder of a `local` backbone.
    """

    def __init__(self, results: Path, model: str | None = None, *, model_path: str | None = None) -> None:
        """Read the records below `results`, of the backbone called `model` where they are of several.

        Raises UserError where there is no such folder, for several backbones without `model`, for none of that name,
        and for a local backbone without its folder, or with another than its cells were trained on.
        """
        self.results = results_folder(str(results))
        if not self.results.is_dir():
            raise UserError(f"results={self.results} is no folder: run a cell, or name its results")
        self.model_path = None if model_path is None else user_path(model_path, "model.path")
        self.refused: dict[str, str] = {}
        self._records: dict[str, Record] = {}
        for path in record_paths(self.results):
            try:
                record = read_record(path)
                _check_served(record, path.parent)
                self._records[record.id] = record
            except (OSError, ValueError) as error:  # UserError among them
                self.refused[path.parent.name] = one_line_of(str(error))
        self.backbone = self._choose(model)
        self.entries: Mapping[str, Entry] = {
            record.id: _entry(record, self.results / "cells" / record.id) for record in self._records.values()
        }

    def record(self, entry: Entry) -> Record:
        """The record that an entry was made from."""
        return self._records[entry.cell]

    def find(self, words: str) -> Entry:
        """The entry of an id, or the one that all words fit: `task=rte method=lora r=8 seed=0`.

        Raises UserError, in one line, where none or several fit, and for what `fitting` refuses.
        """
        found = self.fitting(words)
        if len(found) == 1:
            return found[0]
        listed = "; ".join(f"{one.id} ({one.task} {one.method} seed {one.seed})" for one in found[:_LISTED])
        more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise UserError(f"{shortened(words)} fits {len(found)} cells: {listed}{more}: give more words, or an id")

    def fitting(self, words: str) -> list[Entry]:
        """The entry of an id, or all that the words fit, in the order of ids; never none.

        A word is task, method, seed or model, the size that is in the method's label (`r=8`), or `rank=4` for a rank
        of a method that serves several. Raises UserError, in one line, for other words, and where nothing fits.
        """
        if "=" not in words:
            return [self._by_id(words.strip())]
        given: dict[str, str] = {}
        for word in words.split():
            name, sign, value = word.partition("=")
            if not sign or name in given or name not in (*_FITS, *_SIZES, _RANK):
                raise UserError(
                    f"{shortened(word)} finds no cell: give a cell's id, or some of task=, method=, r= or k=, seed=, "
                    "model=, rank=, each once"
                )
            given[name] = value
        rank = given.pop(_RANK, None)
        found = [entry for entry in self.entries.values() if all(_fits(entry, *pair) for pair in given.items())]
        if not found:
            raise UserError(
                f"{shortened(words)} fits none of the {len(self.entries)} cells served here: {self._told()}"
            )
        if rank is None:
            return found
        serving = [entry for entry in found if rank in self._records[entry.id].by_rank]
        return [self._at_rank(entry, rank) for entry in serving or found]  # of none that serves it, the first says so

    def _by_id(self, text: str) -> Entry:
        cell, sign, rank = text.partition(AT)
        if cell in self.entries:
            return self._at_rank(self.entries[cell], rank) if sign else self.entries[cell]
        if cell in self.refused:
            raise UserError(f"cell {cell} is not served: {self.refused[cell]}")
        raise UserError(f"{shortened(text)} is no cell below results={self.results}: {self._told()}")

    def _at_rank(self, entry: Entry, rank: str) -> Entry:
        record = self._records[entry.id]
        number = record.rank_of(rank)
        label, score = record.label_at(number), record.by_rank[rank]["score"]
        return replace(entry, id=f"{entry.id}{AT}{rank}", method=label, score=score, rank=number)

    def _told(self) -> str:
        """What there is, in a few words."""
        if not self.entries:
            return self.nothing()
        tasks = Counter(entry.task for entry in self.entries.values())
        methods = Counter(entry.method for entry in self.entries.values())
        return f"there are {', '.join(tasks)} by {', '.join(list(methods)[:_LISTED])}"

    def nothing(self) -> str:
        """Why there is no entry, in one line."""
        if not self.refused:
            return f"results={self.results} holds no record: run a cell, or name its results"
        name, why = next(iter(self.refused.items()))
        return f"none of {len(self.refused)} cells below results={self.results} can be served: {name}: {why}"

    def _choose(self, name: str | None) -> Model | None:
        """The one backbone; the records of others are refused."""
        pins = {_pin(record): Model(**record.cell["model"]) for record in self._records.values()}
        if self.model_path is not None and any(model.source == "local" for model in pins.values()):
            digest = hash_folder(self.model_path)
            pins = {key: model for key, model in pins.items() if model.source != "local" or model.sha256 == digest}
            if not pins:
                raise UserError(
                    f"model.path={self.model_path.name} is not the backbone of any cell below results={self.results}: "
                    "give the folder that they were trained on"
                )
        if not self._records:
            return None
        known = sorted({model.name for model in pins.values()})
        fitting = {key: model for key, model in pins.items() if name in (None, model.name)}
        if not fitting:
            raise UserError(f"model={shortened(str(name))} has no cell that can be served: give {' or '.join(known)}")
        if len(fitting) > 1:
            fix = (
                f"give model={' or model='.join(known)} (--model)"
                if len(known) > 1
                else "give the folder of one (--base)"
            )
            raise UserError(f"results={self.results} has cells of {len(fitting)} backbones: {fix}")
        (key, chosen) = next(iter(fitting.items()))
        if chosen.source == "local" and self.model_path is None:
            raise UserError(f"model={chosen.name} is a folder, which no record names: give it (--base)")
        if chosen.source != "local" and self.model_path is not None:
            raise UserError(
                f"--base {self.model_path.name} is for model=local alone, not for {chosen.name}: leave it out"
            )
        for cell, record in list(self._records.items()):
            if _pin(record) != key:
                del self._records[cell]
                self.refused[cell] = f"its backbone is another than the library's {chosen.name}"
        return chosen


def check_fits(entry: Entry, spec: TaskSpec) -> None:
    """Raise UserError where a cell's outputs, or the texts that it takes, are not the task's."""
    if set(entry.labels or ()) != set(spec.labels):
        has, wants = (", ".join(labels) or "a score" for labels in (entry.labels or (), spec.labels))
        raise UserError(f"cell {entry.id} ({entry.task}) answers {has}, and task={spec.name} asks for {wants}")
    if entry.pair != (len(spec.columns) == 2):
        takes, has = ("two texts", "one") if entry.pair else ("one text", "two")
        raise UserError(f"cell {entry.id} ({entry.task}) takes {takes}, and task={spec.name} has {has}")


def _pin(record: Record) -> str:
    """What pins a record's backbone, as text."""
    return repr(sorted(record.cell["model"].items()))


def _check_served(record: Record, folder: Path) -> None:
    """Raise UserError, with the reason, where a cell cannot be served."""
    name = record.cell["method"]["name"]
    section(Model, record.cell["model"], "model")
    if not record.is_done:
        raise UserError("its training failed: run it again")
    if record.is_trial:
        raise UserError("it is a trial of a study, which was scored on rows of train: serve the study's runs")
    if name not in SERVED:
        raise UserError(
            f"method={name} leaves no low-rank product beside a frozen map, and is not served: {', '.join(SERVED)} are"
        )
    told = (record.run.get("config", {}).get("method") or {}).get("_target_", SERVED[name])
    if told != SERVED[name]:
        raise UserError(f"method={name} is {shortened(str(told))} there, not the package's own: it is not served")
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"it keeps no {WEIGHTS}, which is what is served: train it again with rerun=true, its weights kept"
        )


def _entry(record: Record, folder: Path) -> Entry:
    cell, spec = record.cell, record.spec
    return Entry(
        id=record.id,
        model=cell["model"]["name"],
        task=spec.name,
        method=record.label,
        seed=cell["seed"],
        labels=spec.labels or None,
        score=record.result["best"]["score"],
        pair=len(spec.columns) == 2,
        max_length=cell["train"]["max_length"],
        folder=folder,
        options=_options(cell["method"]),
    )


def _options(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings, with those that a record's version had silently."""
    options = dict(method)
    if (later := _LATER.get(options["name"])) is not None:
        *sections, last = later.split(".")[1:]
        part = options
        for name in sections:
            part[name] = part = dict(part[name])
        part.setdefault(last, LEFT_OUT[later])
    return options


_LATER = {"sora": "method.l1_form", "lora2": "method.reg.mean_over"}
_FITS: dict[str, Callable[[Entry], tuple[str, ...]]] = {
    "task": lambda entry: (entry.task,),
    "method": lambda entry: (entry.method.split()[0],),
    "seed": lambda entry: (str(entry.seed),),
    "model": lambda entry: (entry.model,),
}


def _fits(entry: Entry, name: str, value: str) -> bool:
    """Whether a word `name=value` is true of an entry; a size is a part of its label."""
    return value in _FITS[name](entry) if name in _FITS else f"{name}={value}" in entry.method.split()
