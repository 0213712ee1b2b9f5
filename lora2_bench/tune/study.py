"""A study as conf/study/NAME.yaml declares it: rows, tasks, trials, seeds and comparisons, and its cells' overrides."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import MOST_SEED, require, require_int, require_number
from lora2_bench.experiment.recipe import Tuned
from lora2_bench.experiment.settings import typed
from lora2_bench.experiment.suites import rows
from lora2_bench.files.paths import CONF
from lora2_bench.records.forms import PLAIN_NAME
from lora2_bench.tasks.spec import ALL_TASKS

_KEYS: tuple[str, ...] = (
    "model",
    "data",
    "trials",
    "tuning_seed",
    "seeds",
    "tasks",
    "primary",
    "secondary",
    "settings",
    "left_out",
)
_KEYS += ("seconds_per_step",)
_SETTINGS = ("all", "tasks", "rows")
_OWN = ("task", "row", "method", "kr", "seed", "protocol", "recipe", "looks", "suite", "init_from", "rng_version")
# Where and how to run: they change no cell, and may be paths.
_PLACES = (
    "config_dir",
    "results",
    "device",
    "threads",
    "engine",
    "masks",
    "eval_batch_size",
    "tracker",
    "checkpoint",
    "data.dir",
    "model.path",
)
MOST_TRIALS = 1000

Pair = tuple[str, str]
"""Two rows that are compared, or a row and a task."""


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: of conf/study; the trials are drawn from it.
        values: all that its file says, with what the command changed.
        extra: overrides of the command that change its cells, as `model=local`.
        folder: below results/studies; the study's name unless given.
    """

    name: str
    values: Mapping[str, Any]
    extra: tuple[str, ...] = ()
    folder: str = ""

    def __post_init__(self) -> None:
        _check(self.values)
        for override in self.extra:
            key = override.lstrip("+~").partition("=")[0].partition(".")[0]
            if key in _OWN:
                raise UserError(
                    f"{override} is the study's to say: change study.NAME=VALUE, or conf/study/{self.name}.yaml"
                )

    @property
    def trials(self) -> int:
        """Trials of each row and task."""
        return int(self.values["trials"])

    @property
    def seeds(self) -> list[int]:
        """Of the runs."""
        return list(self.values["seeds"])

    @property
    def tasks(self) -> dict[str, list[str]]:
        """Task -> its rows."""
        return dict(self.values["tasks"])

    @property
    def places(self) -> list[Pair]:
        """Every (row, task)."""
        return [(row, task) for task, names in self.tasks.items() for row in names]

    @property
    def rows(self) -> list[str]:
        """Every row, in the order in which they are first named."""
        return list(dict.fromkeys(row for row, _ in self.places))

    @property
    def comparisons(self) -> list[Pair]:
        """The primary comparison, then the secondary ones."""
        return [(one[0], one[1]) for one in (self.values["primary"], *self.values["secondary"])]

    def shared(self, ours: str, other: str) -> list[str]:
        """The tasks that two rows are both planned for."""
        return [task for task, names in self.tasks.items() if ours in names and other in names]

    @property
    def model(self) -> str:
        """The backbone's choice, which recipes are of."""
        return self._chosen("model")

    @property
    def data(self) -> str:
        """The choice of where rows come from."""
        return self._chosen("data")

    def _chosen(self, name: str) -> str:
        chosen = [value for key, _, value in (one.partition("=") for one in self.extra) if key == name]
        return chosen[-1] if chosen else str(self.values[name])

    def changes(self) -> list[str]:
        """What the command changed of the study's file, as it takes them: `study.KEY=VALUE`."""
        before = _file(self.name)
        return [f"study.{key}={_flow(self.values[key])}" for key in _KEYS if self.values[key] != before[key]]

    def settings_of(self, row: str, task: str) -> dict[str, Any]:
        """What the study sets of the recipe of a row on a task."""
        settings = self.values["settings"]
        return {**settings["all"], **settings["tasks"].get(task, {}), **settings["rows"].get(row, {})}

    def trial(self, row: str, task: str, values: Mapping[str, float]) -> tuple[str, ...]:
        """The overrides of a trial with these values of the recipe; none are the recipe itself, which is trial 0."""
        own = (f"recipe.{name}={typed(value)}" for name, value in {**self.settings_of(row, task), **values}.items())
        return self._cell("protocol=tune", row, task, self.values["tuning_seed"], *own)

    def recipe(self, row: str, task: str) -> Tuned:
        """The name of the recipe that the winner of a row on a task becomes."""
        return Tuned(self.model, self.folder or self.name, row, task)

    def run(self, row: str, task: str, seed: int, recipe: Tuned) -> tuple[str, ...]:
        """The overrides of a run of a tuned recipe: all of train, dev looked at once."""
        return self._cell("protocol=paper", row, task, seed, f"recipe={recipe.name}")

    def _cell(self, protocol: str, row: str, task: str, seed: int, *own: str) -> tuple[str, ...]:
        given = {override.partition("=")[0] for override in self.extra}
        where = [f"{name}={self.values[name]}" for name in ("model", "data") if name not in given]
        return (*where, f"row={row}", f"task={task}", protocol, f"seed={seed}", "looks=1", *own, *self.extra)

    def science(self) -> dict[str, Any]:
        """What decides its cells, to be compared with what was begun."""
        told = ("seconds_per_step", "left_out")
        return {**{key: value for key, value in self.values.items() if key not in told}, "extra": list(self.extra)}


def split_places(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides that say where and how to run, and the rest, which change the cells."""
    places: list[str] = []
    rest: list[str] = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        is_place = any(key == place or key.startswith(f"{place}.") for place in _PLACES)
        (places if is_place else rest).append(override)
    return places, rest


def read_study(name: str, changes: Sequence[str] = (), extra: Sequence[str] = (), folder: str = "") -> Study:
    """The study of conf/study/NAME.yaml; `changes` are `study.KEY=VALUE`, with YAML values. Raises UserError."""
    known = sorted(path.stem for path in (CONF / "study").glob("*.yaml"))
    if name not in known:
        raise UserError(f"study={name} is not known: choose one of {', '.join(known)}")
    values = _file(name)
    for change in changes:
        key, _, text = change.removeprefix("study.").partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{change} cannot be read: give a number, [A, B] or {{NAME: VALUE}}") from None
        _set(values, key, value, change)
    return Study(name, values, tuple(extra), folder)


def _file(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CONF / "study" / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def _set(values: dict[str, Any], key: str, value: Any, change: str) -> None:
    first, *_ = names = key.split(".")
    if first not in _KEYS:
        near = difflib.get_close_matches(first, _KEYS, n=1)
        told = f"did you mean study.{near[0]}?" if near else f"choose one of {', '.join(_KEYS)}"
        raise UserError(f"study.{first} is not a setting of a study: {told}")
    part: Any = values
    for one in names[:-1]:
        if not isinstance(part.get(one), dict):
            part[one] = {}
        part = part[one]
        if names[-1] == "":
            raise UserError(f"{change} cannot be read: give study.KEY=VALUE")
    part[names[-1]] = value


def _check(values: Mapping[str, Any]) -> None:
    """Raise UserError for the first value that is none of a study's."""
    for key in _KEYS:
        require(key in values, f"study.{key}", values.get(key), "given")
    for key in ("model", "data"):
        require(isinstance(values[key], str), f"study.{key}", values[key], "a name")
    require_int("study.trials", values["trials"], 1, "an integer of at least 1", MOST_TRIALS)
    require_int("study.tuning_seed", values["tuning_seed"], 0, "an integer of at least 0", MOST_SEED)
    seeds = values["seeds"]
    require(isinstance(seeds, list) and len(seeds) > 0, "study.seeds", seeds, "a list of seeds")
    for seed in seeds:
        require_int("study.seeds", seed, 0, "integers of at least 0", MOST_SEED)
    fresh = len(set(seeds)) == len(seeds) and values["tuning_seed"] not in seeds
    require(fresh, "study.seeds", seeds, f"different seeds, none of them the tuning seed {values['tuning_seed']}")
    tasks = values["tasks"]
    require(isinstance(tasks, dict) and len(tasks) > 0, "study.tasks", tasks, "as in {rte: [lora_r1, lora2_k1]}")
    for task, names in tasks.items():
        require(task in ALL_TASKS, "study.tasks", task, f"of {', '.join(ALL_TASKS)}")
        _check_rows(f"study.tasks.{task}", names)
    named = {row for names in tasks.values() for row in names}
    require(isinstance(values["secondary"], list), "study.secondary", values["secondary"], "a list of pairs of rows")
    for pair in (values["primary"], *values["secondary"]):
        are_two = isinstance(pair, list) and len(pair) == 2 and all(one in named for one in map(str, pair))
        require(are_two, "study.primary and study.secondary", pair, f"two rows of {', '.join(sorted(named))}")
        met = any(pair[0] in names and pair[1] in names for names in tasks.values())
        require(
            met and pair[0] != pair[1], "study.primary and study.secondary", pair, "different rows that share a task"
        )
    settings = values["settings"]
    whole = isinstance(settings, dict) and set(settings) == set(_SETTINGS)
    whole = whole and all(isinstance(section, dict) for section in settings.values())
    require(whole, "study.settings", settings, f"sections {', '.join(_SETTINGS)}, each as in {{}}")
    for part, known in (("tasks", [*ALL_TASKS]), ("rows", [*rows()])):  # a narrowed study may use fewer
        for one in settings[part]:
            require(one in known, f"study.settings.{part}", one, f"of {', '.join(known)}")
    for section in (settings["all"], *settings["tasks"].values(), *settings["rows"].values()):
        plain = isinstance(section, dict) and all(
            PLAIN_NAME.matches(str(key)) and type(value) in (int, float) for key, value in section.items()
        )
        require(plain, "study.settings", section, "numbers of the recipe, as in {epochs: 3}")
    lines = values["left_out"]
    require(isinstance(lines, list) and all(isinstance(one, str) for one in lines), "study.left_out", lines, "lines")
    check_seconds(values["seconds_per_step"])


def _check_rows(place: str, names: Any) -> None:
    are_names = isinstance(names, list) and names and all(isinstance(row, str) for row in names)
    require(bool(are_names) and len(set(names)) == len(names), place, names, "a list of different rows (conf/row)")
    for row in names:
        require(row in rows(), place, row, f"of {', '.join(rows())}")


def check_seconds(value: Any, place: str = "study.seconds_per_step") -> None:
    """Raise UserError unless `value` is null, seconds, or seconds by task, and by row within a task."""
    if isinstance(value, dict):
        for key, one in value.items():
            check_seconds(one, f"{place}.{key}")
    elif value is not None:
        require_number(place, value, 1e-9, 1e6, "seconds above 0, or {TASK: {default: SECONDS, ROW: SECONDS}}")
