"""Which cells a command line means, with their ids; kept on disk, since composing hundreds of configs takes seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.files.paths import CONF
from lora2_bench.files.writing import write_json

RESULTS = "results"


@dataclass(frozen=True)
class Planned:
    """A cell of a sweep: its id, and the overrides that `python -m lora2_bench` would run it with."""

    id: str
    overrides: tuple[str, ...]

    @property
    def label(self) -> str:
        """The overrides that name it, as in `row=lora_r1 task=rte seed=0`."""
        named = [word for word in self.overrides if word.split("=")[0] in ("row", "method", "kr", "task", "seed")]
        return " ".join(named or self.overrides)


def setting(words: Sequence[str], name: str) -> str | None:
    """The last value that `words` give to `name`, without quotes; None where they give none."""
    found = [word.split("=", 1)[1] for word in words if word.startswith(f"{name}=")]
    return found[-1].strip("'\"") if found else None


def results_of(words: Sequence[str]) -> Path:
    """The results folder that `words` choose."""
    return Path(setting(words, "results") or RESULTS).expanduser().absolute()


def home_of(words: Sequence[str], name: str | None) -> Path:
    """The sweep's own folder: `name`, or else the suite's, below results/sweeps."""
    return results_of(words) / "sweeps" / (name or setting(words, "suite") or "cells")


def plan(words: Sequence[str], home: Path) -> list[Planned]:
    """The cells of a command line, in the order of Hydra's sweeper; composed anew only where the configs changed.

    Raises UserError for what cannot be composed, before anything is sent.
    """
    digest, key = _digest(words), json.dumps(list(words))
    known = _read(home)
    cells = known["calls"].get(key) if known["digest"] == digest else None
    if cells is None:
        cells = [[cell.id, *cell.overrides] for cell in _compose(words)]
        known = _read(home)
        calls, sent = (known["calls"], known["sent"]) if known["digest"] == digest else ({}, [])
        _write(home, {"digest": digest, "calls": {**calls, key: cells}, "sent": sent})
    return [Planned(id_, tuple(overrides)) for id_, *overrides in cells]


def mark_sent(words: Sequence[str], home: Path) -> None:
    """Keep that the sweep in `home` was asked for these words' cells, which are planned already."""
    known, key = _read(home), json.dumps(list(words))
    if key not in known["sent"]:
        _write(home, {**known, "sent": [*known["sent"], key]})


def asked_for(home: Path) -> list[Planned]:
    """All cells that the sweep in `home` was asked to send since the configs changed last; each once."""
    known = _read(home)
    cells: dict[str, Planned] = {}
    for key in known["sent"]:
        for id_, *overrides in known["calls"].get(key, ()):
            cells.setdefault(id_, Planned(id_, tuple(overrides)))
    return list(cells.values())


def _read(home: Path) -> Mapping[str, Any]:
    try:
        values = json.loads((home / "plan.json").read_text(encoding="utf-8"))
        return {"digest": values["digest"], "calls": dict(values["calls"]), "sent": list(values["sent"])}
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return {"digest": None, "calls": {}, "sent": []}


def _write(home: Path, values: Mapping[str, Any]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / "plan.json", values)


def _compose(words: Sequence[str]) -> list[Planned]:
    from lora2_bench.config.grid import grid  # Hydra takes a third of a second to import

    found: dict[str, Planned] = {}
    for overrides, cell, _ in grid(words, _params(words)):
        id_ = cell.id
        found.setdefault(id_, Planned(id_, overrides))  # rows that are the same science are one cell
    return list(found.values())


def _params(words: Sequence[str]) -> dict[str, str]:
    from lora2_bench.experiment.suites import suites

    name = setting(words, "suite")
    if name is None:
        return {}
    if name not in suites():
        raise UserError(f"suite={name} is not known: choose one of {', '.join(suites())}")
    suite = suites()[name]
    return {"row": ",".join(suite.rows), "task": ",".join(suite.tasks), "seed": ",".join(map(str, suite.seeds))}


def _digest(words: Sequence[str]) -> str:
    """Of all that an id is made from besides the words: the configs, the code that reads them, a local backbone."""
    package = Path(__file__).resolve().parents[1]
    code = [path for room in ("config", "experiment") for path in sorted((package / room).glob("*.py"))]
    digest = hashlib.sha256()
    for path in [*sorted(CONF.rglob("*.yaml")), *code]:
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    folder = Path(setting(words, "model.path") or "/nowhere").expanduser()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return digest.hexdigest()
