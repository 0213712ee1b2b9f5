"""The options of a sweep's command line; all else on it is a Hydra override."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import require, require_choice
from lora2_bench.experiment.words import quoted
from lora2_bench.files.arguments import nearest
from lora2_bench.files.paths import CONF, user_path
from lora2_bench.records.scrub import shorten_home

FLAGS = {"--wait": "wait", "--dry-run": "dry_run", "--json": "json"}
_CONFIG_DIR = "--config-dir"
_DIGITS = 8  # more than any of these numbers has
_COUNTS = ("parallel", "pack", "cells_per_job", "array_max", "throttle", "gpus", "cpus")
_SLURM_ONLY = ("cells_per_job", "array_max", "throttle", "partition", "account", "time", "memory", "gpus", "cpus")


@dataclass(frozen=True)
class Options:
    """How and where to run a sweep's cells; nothing here changes a cell.

    Attributes:
        cluster: local or slurm.
        name: the sweep's folder below results/sweeps; None = the suite's name.
        parallel: processes at once, on this machine or in one job; None = as many as cores (local) or one (slurm).
        pack: cells of one task and model that train side by side in a process (training/pack.py); None = one.
        cells_per_job: cells that one job runs, one after another or `parallel` at once.
        array_max: jobs per array at most, where that is less than the cluster's MaxArraySize.
        throttle: jobs of this call that run at once, over all its arrays; None = no limit.
        partition, account, memory: as sbatch has them (memory per node, as in 16G).
        time: minutes of one job, from MINUTES, H:MM:SS or D-HH[:MM[:SS]]; None = an hour.
        gpus, cpus: per job.
        sbatch: any other sbatch option, from slurm.KEY=VALUE.
        wait: follow with a progress bar until nothing runs.
        dry_run: print what would be sent, and send nothing.
        json: print JSON (status only).
    """

    cluster: str = "local"
    name: str | None = None
    parallel: int | None = None
    pack: int | None = None
    cells_per_job: int | None = None
    array_max: int | None = None
    throttle: int | None = None
    partition: str | None = None
    account: str | None = None
    time: int | None = None
    memory: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    sbatch: dict[str, str | bool] = field(default_factory=dict)
    wait: bool = False
    dry_run: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        require_choice("cluster", self.cluster, ("local", "slurm"))
        if self.name is not None:
            require(re.fullmatch(r"\w[\w.-]*", self.name) is not None, "name", self.name, "letters, digits, . _ -")
        for name in _SLURM_ONLY if self.cluster == "local" else ():
            if getattr(self, name) is not None:
                raise UserError(f"{name}={getattr(self, name)} is for Slurm: leave it out, or give cluster=slurm")
        if self.cluster == "local" and self.sbatch:
            raise UserError(f"slurm.{next(iter(self.sbatch))} is for Slurm: leave it out, or give cluster=slurm")


def parse(arguments: Sequence[str]) -> tuple[Options, tuple[str, ...]]:
    """A command line as options and Hydra overrides. Raises UserError for an argument that is neither."""
    names = {one.name for one in fields(Options)} - {"sbatch", *FLAGS.values()}
    values: dict[str, object] = {}
    sbatch: dict[str, str | bool] = {}
    overrides: list[str] = []
    for argument in _joined(arguments):
        name, equals, value = argument.partition("=")
        if argument in FLAGS:
            values[FLAGS[argument]] = True
        elif argument.startswith("-"):
            raise UserError(f"{argument} is not an option: {nearest(argument, [*FLAGS, _CONFIG_DIR])}")
        elif not equals and not argument.startswith("~"):
            raise UserError(f"{argument} cannot be read: give NAME=VALUE, as in suite=table1")
        elif name.startswith("slurm."):
            sbatch[name.removeprefix("slurm.").replace("-", "_")] = value or True
        elif name in names:
            values[name] = _value(name, value)
        else:
            _check_near(name.lstrip("+~"), sorted(names))
            overrides.append(_with_tilde(argument))
    return replace(Options(cluster=str(values.get("cluster", "local"))), sbatch=sbatch, **values), tuple(overrides)  # type: ignore[arg-type]


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments with `--config-dir DIR` as the setting that every cell is sent with. Raises UserError."""
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option not in (_CONFIG_DIR, "-cd"):
            yield argument
            continue
        folder = value if equals else next(rest, "")
        if not folder or folder.startswith("-"):
            raise UserError(f"{option} has no value: give {option} DIR")
        yield f"config_dir={quoted(str(user_path(folder, _CONFIG_DIR).absolute()))}"


def _check_near(name: str, options: Sequence[str]) -> None:
    """Raise UserError for a name that is none of the config's and nearly one of these options, or of the config's.

    Any other unknown name is left to the config, whose errors name settings of sections too.
    """
    known = _top_names()
    if re.split(r"[./@]", name)[0] in (*known, "hydra"):
        return
    if near := difflib.get_close_matches(name, (*options, *known), n=1, cutoff=0.7):
        raise UserError(f"{name} is not a setting: did you mean {near[0]}?")


@cache
def _top_names() -> tuple[str, ...]:
    """The names at the top of the config: switches, sections and groups. Hydra is not asked, which takes a while."""
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    return tuple(sorted(set(re.findall(r"^(?:  - )?(\w+):", text, re.MULTILINE)) - {"defaults"}))


def _with_tilde(override: str) -> str:
    """An override with `~` for the home folder, in the quotes that Hydra wants around it: a sweep keeps it in files."""
    short = shorten_home(override)
    return short if short == override else re.sub(r"(?<=[=,\[])~(?:/[^\s,'\"\]]*)?", r"'\g<0>'", short)


def _value(name: str, text: str) -> object:
    if name in _COUNTS:
        low = 0 if name == "gpus" else 1
        is_number = re.fullmatch("[0-9]+", text) is not None and len(text) < _DIGITS
        require(is_number and int(text) >= low, name, text, f"an integer of at least {low}, under 10^{_DIGITS - 1}")
        return int(text)
    if name == "time":
        return _minutes(text)
    if name == "memory":
        require(re.fullmatch(r"[1-9]\d*[KMGT]?", text) is not None, name, text, "as in 16G")
    require(text != "", name, text, "a value")
    return text


def _minutes(text: str) -> int:
    """Minutes of a time as Slurm writes it, rounded up."""
    found = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+):(\d+):(\d+)|(\d+))", text)
    require(found is not None, "time", text, "minutes (90), hours (12:00:00) or days (1-12:00:00)")
    assert found is not None
    require(all(len(one or "") < _DIGITS for one in found.groups()), "time", text, "less than Slurm can count")
    days, day_hours, day_minutes, day_seconds, hours, minutes, seconds, plain = (
        int(one or 0) for one in found.groups()
    )
    total = plain + 60 * (24 * days + day_hours + hours) + day_minutes + minutes + (day_seconds + seconds + 59) // 60
    require(total > 0, "time", text, "at least a minute")
    return total
