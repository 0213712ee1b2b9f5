"""Search spaces: conf/space/<method>.yaml has a sampler for each hyperparameter; the default is the recipe's value."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import yaml

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import require, require_number
from lora2_bench.files.paths import CONF

EDGE = 0.1
"""The share of a logarithmic range, at either end, in which a winner lies at the edge."""
_KINDS = ("log_uniform", "uniform", "choice")
_DIGITS = 3  # of a drawn value: what a user would type


@dataclass(frozen=True)
class Sampler:
    """How one hyperparameter, a number of the recipe, is drawn.

    Attributes:
        name: the recipe's key.
        kind: log_uniform, uniform or choice.
        low, high: the range; `around` the recipe's value where they are None: from value / around to value · around.
        around: the factor, for log_uniform alone.
        choices: for choice alone.
    """

    name: str
    kind: str
    low: float | None = None
    high: float | None = None
    around: float | None = None
    choices: tuple[float, ...] = ()

    def range(self, default: float) -> tuple[float, float]:
        """The lowest and the highest value, given the recipe's; for a choice those of its values."""
        if self.around is not None:
            return default / self.around, default * self.around
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return min(self.choices), max(self.choices)

    def draw(self, random: Random, default: float) -> float:
        """A value, to three digits."""
        if self.kind == "choice":
            return self.choices[int(random.random() * len(self.choices))]
        low, high = self.range(default)
        share = random.random()
        return _rounded(low * (high / low) ** share if self.kind == "log_uniform" else low + (high - low) * share)

    def edge(self, value: float, default: float) -> int:
        """-1 or 1 where `value` lies in the outermost tenth of the logarithmic range, low or high; else 0."""
        if self.kind != "log_uniform":
            return 0
        low, high = self.range(default)
        place = math.log(value / low) / math.log(high / low)
        return -1 if place < EDGE else 1 if place > 1 - EDGE else 0

    def beyond(self, random: Random, default: float, side: int) -> float:
        """A value from the space that lies beyond one edge, half as wide (in logarithms) as the space itself."""
        low, high = self.range(default)
        factor = (high / low) ** (0.5 * random.random())
        return _rounded(high * factor if side > 0 else low / factor)


def read_space(method: str) -> tuple[Sampler, ...]:
    """The samplers of a method, or of the method whose recipe it borrows, those that it uses.

    Raises UserError without a space.
    """
    path = CONF / "space" / f"{method}.yaml"
    file = CONF / "method" / f"{method}.yaml"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    borrowed = None if path.is_file() or not text else yaml.safe_load(text).get("recipe")
    if borrowed is not None:
        path = CONF / "space" / f"{borrowed}.yaml"
    if not path.is_file():
        raise UserError(f"method={method} has no search space: write conf/space/{method}.yaml")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    require(
        isinstance(values, dict) and values != {}, f"space/{path.stem}", values, "a sampler for each hyperparameter"
    )
    used = _taken(text) | _taken((CONF / "config.yaml").read_text(encoding="utf-8"))  # (IA)³ has LoRA's lr and no alpha
    return tuple(sampler_of(name, value) for name, value in values.items() if borrowed is None or name in used)


def _taken(text: str) -> set[str]:
    """The recipe's values that a config takes."""
    return set(re.findall(r"\brecipe\.(\w+)", text))


def sampler_of(name: str, value: Any) -> Sampler:
    """The sampler that a space's entry stands for. Raises UserError."""
    known = isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _KINDS
    require(known, name, value, f"one of {', '.join(_KINDS)}, as in {name}: {{log_uniform: {{around: 5}}}}")
    ((kind, given),) = value.items()
    if kind == "choice":
        fits = isinstance(given, list) and given and all(type(one) in (int, float) for one in given)
        require(bool(fits), f"{name}.choice", given, "a list of numbers")
        return Sampler(name, kind, choices=tuple(given))
    if kind == "log_uniform" and isinstance(given, dict):
        require(set(given) == {"around"}, f"{name}.log_uniform", given, "{around: FACTOR}, or [LOW, HIGH]")
        require_number(f"{name}.around", given["around"], 1 + 1e-9, 1e6, "a factor above 1")
        return Sampler(name, kind, around=float(given["around"]))
    is_pair = isinstance(given, list) and len(given) == 2 and all(type(one) in (int, float) for one in given)
    least = 0.0 if kind == "log_uniform" else -math.inf
    require(is_pair and least < given[0] < given[1] < math.inf, f"{name}.{kind}", given, "[LOW, HIGH], low under high")
    return Sampler(name, kind, low=float(given[0]), high=float(given[1]))


def generator(*parts: object) -> Random:
    """A generator seeded by these parts alone: the same numbers on any machine."""
    return Random(int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8]))


def draw(space: Sequence[Sampler], recipe: Mapping[str, Any], *parts: object) -> dict[str, float]:
    """One trial's values, each from a generator of `parts` and its own name."""
    return {one.name: one.draw(generator(*parts, one.name), default_of(one, recipe)) for one in space}


def widened(
    space: Sequence[Sampler], recipe: Mapping[str, Any], winner: Mapping[str, float], *parts: object
) -> dict[str, float] | None:
    """The winner's values, those at an edge drawn beyond it; None for a winner at no edge."""
    found = dict(winner)
    for one in space:
        default = default_of(one, recipe)
        if side := one.edge(winner[one.name], default):
            found[one.name] = one.beyond(generator(*parts, one.name), default, side)
    return None if found == dict(winner) else found


def edges(space: Sequence[Sampler], recipe: Mapping[str, Any], values: Mapping[str, float]) -> list[str]:
    """Which of a trial's values lie at an edge, as `lr (low)`."""
    sides = {one.name: one.edge(values[one.name], default_of(one, recipe)) for one in space}
    return [f"{name} ({'high' if side > 0 else 'low'})" for name, side in sides.items() if side]


def default_of(sampler: Sampler, recipe: Mapping[str, Any]) -> float:
    """The recipe's value of a hyperparameter. Raises UserError where it has none that can be searched around."""
    value: Any = recipe.get(sampler.name)
    if type(value) not in (int, float) or (sampler.kind == "log_uniform" and value <= 0):
        raise UserError(
            f"recipe.{sampler.name}={value} cannot be tuned: conf/space needs a number of the recipe"
            + (" above 0" if sampler.kind == "log_uniform" else "")
        )
    return float(value) if isinstance(value, float) else int(value)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
