"""Which runs count: the one selection that tables, figures, comparisons and the page show.

A run counts where it is finished, on its recipe and not stale. Of the runs of one place only those of the newest
version of the random streams count; where these were made under several settings, those of the setting with the most
seeds. Runs by code that has changed since count where all of their method are by that code, and are marked. What does
not count is shown apart, with its reason. Trials of a study (`protocol=tune`) are no runs: they are
scored on rows of train, and the study alone shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lora2_bench.experiment.sources import sources_digest
from lora2_bench.experiment.suites import rows, suites
from lora2_bench.records.record import Record
from lora2_bench.report.runs import Run, grouped

OK, MISSING, FAILED, STALE, NOT_COMPARABLE = "ok", "missing", "failed", "stale", "not comparable"


@dataclass(frozen=True)
class Selection:
    """Every run, and which are out of date.

    Attributes:
        runs: finished and failed ones, in the order of the records.
        stale: id -> reason, as `stale_runs` gives it.
    """

    runs: Sequence[Run]
    stale: Mapping[str, str]

    @property
    def finished(self) -> list[Run]:
        """The finished runs, whether they count or not."""
        return [run for run in self.runs if run.done]

    @property
    def predictions(self) -> dict[str, str]:
        """Id -> the digest that its record holds of its stored predictions."""
        return {run.id: sha256 for run in self.runs if (sha256 := run.predictions_sha256) is not None}

    def marks(self, run: Run) -> str:
        """Why a finished run does not count, as tables name it beside the method; empty where it can count."""
        stale = [f"stale: {self.stale[run.id]}"] if run.id in self.stale else []
        return "; ".join([*run.obstacles, *stale])

    def shown(self) -> list[Run]:
        """The runs that a figure shows of each backbone, data source, protocol, method with its size, and task.

        They are those that count in the method's row of Table 1; only where it has no such row or no run counts there,
        those of the method's other settings.
        """
        chosen = []
        for (*_, label, _), place in grouped(self.runs, "folder", "protocol", "label", "task").items():
            row = _table1_rows().get(label)
            own = [run for run in place if row is not None and rows()[row].fits(run.cell)]
            found = taken(own, self.stale) or taken(place, self.stale)
            chosen += sorted(found, key=lambda run: run.seed)
        return chosen


def select(records: Iterable[Record], *, whole: bool = True) -> Selection:
    """The selection among the runs of these records; with whole=False, of runs that are trimmed to what tables need."""
    pool: dict[str, Any] = {}
    return selection_of([Run.of(record) if whole else Run.of(record).trimmed(pool) for record in records])


def selection_of(runs: Sequence[Run]) -> Selection:
    """The selection among runs but trials, which learn here whether they are `older`: by code that has changed since.

    Where every run of a method is by one such code, they can be compared with each other: they count, and are marked.
    """
    here = cache(sources_digest)  # within this call: files may change meanwhile
    runs = [run for run in runs if not run.record.is_trial]
    stale = stale_runs(runs, here)

    def is_older(run: Run) -> bool:
        return run.done and run.id not in stale and _now(run, here) not in (None, run.sources)

    return Selection([replace(run, older=True) if is_older(run) else run for run in runs], stale)


def _table1_rows() -> dict[str, str]:
    """A record's label -> the row of Table 1 that has it."""
    return {rows()[name].label: name for name in suites()["table1"].rows}


def taken(runs: Iterable[Run], stale: Mapping[str, str]) -> list[Run]:
    """Which of the runs of one place count.

    Finished runs by the recipe that are not stale can, where none of them has newer random streams. Where they were
    made under several settings (another length, say), those with the most seeds are taken, the newest of equals: never
    by score.
    """
    able = [run for run in runs if run.done and not run.obstacles and run.id not in stale]
    newest = max((run.rng_version for run in able), default=0)
    settings: dict[str, list[Run]] = {}
    for run in able:
        if run.rng_version == newest:
            settings.setdefault(run.science, []).append(run)
    return max(settings.values(), key=lambda group: (len(group), max(run.finished for run in group)), default=[])


def why_not(run: Run, stale: Mapping[str, str], counted: Iterable[Run]) -> tuple[str, str]:
    """State and reason of a run that is not among `counted`, those of its place that are taken."""
    if not run.done:
        return FAILED, run.cause
    if run.obstacles:
        return NOT_COMPARABLE, "; ".join(run.obstacles)
    if run.id in stale:
        return STALE, stale[run.id]
    if any(other.rng_version > run.rng_version for other in counted):
        return STALE, f"rng_version={run.rng_version}, older random streams than those of the runs that count"
    return NOT_COMPARABLE, "other settings than those of most of its seeds"


def runs_by_row(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Row's name -> its runs. A run may belong to no row; rows that are the same cells are one row."""
    found: dict[str, list[Run]] = {}
    by_method: dict[str, list[str]] = {}
    for name, spec in rows().items():
        by_method.setdefault(spec.method, []).append(name)
    fitting: dict[str, list[str]] = {}  # by science: the tasks and seeds of a row share it
    for run in runs:
        if run.science not in fitting:
            names = by_method.get(run.cell["method"]["name"], ())
            fitting[run.science] = [name for name in names if rows()[name].fits(run.cell)]
        for name in fitting[run.science]:
            found.setdefault(name, []).append(run)
    return found


def stale_runs(runs: Iterable[Run], here: Callable[[str], str | None] = sources_digest) -> dict[str, str]:
    """Id -> reason of every run made with other rows, weights or another major version than the newest, or other code.

    Or with dropout masks of another stream than those of the newest run of its method and random streams.

    The newest finished run of the same backbone, data (a generator's seed included) and task is the measure: what has
    changed since then cannot be averaged with it, whichever of the two is right. A run by other code is stale beside
    runs of the same method by the code that is here, and where there are none, beside its newest run; a record of a
    version that kept no digest of its code is taken as made by any. `here` gives the digest of a method's code.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        if run.done:
            groups.setdefault((run.folder, run.cell["data"]["seed"], run.task), []).append(run)
    found: dict[str, str] = {}
    for group in groups.values():
        newest = max(group, key=_age)
        code_of = {name: _measure(same, here) for name, same in grouped(group, "method_name").items()}
        alike = grouped(group, "method_name", "rng_version")  # which are never averaged over
        masks_of = {names: max(same, key=_age).masks for names, same in alike.items()}
        for run in group:
            if run.data_sha256 != newest.data_sha256:
                found[run.id] = "other rows than the newest record's"
            elif run.backbone_sha256 != newest.backbone_sha256:
                found[run.id] = "other backbone weights than the newest record's"
            elif None not in (run.major, newest.major) and run.major != newest.major:
                found[run.id] = f"version {run.major} of the package, the newest record's is {newest.major}"
            elif None not in (run.sources, code := code_of[run.method_name]) and run.sources != code:
                now = "is here" if code == _now(run, here) else "the newest record's of this method"
                found[run.id] = f"other code than {now}"
            elif run.masks != (masks := masks_of[run.method_name, run.rng_version]):
                found[run.id] = f"masks={run.masks}, the newest record's of this method are {masks}"
    return found


def _measure(runs: Sequence[Run], here: Callable[[str], str | None]) -> str | None:
    """Digest of the code that one method's runs are held against; None where nobody knows."""
    if current := [run.sources for run in runs if run.sources is not None and run.sources == _now(run, here)]:
        return current[0]
    return max(runs, key=_age).sources


def _now(run: Run, here: Callable[[str], str | None]) -> str | None:
    """Digest of the run's code as it is here; None where either is not known."""
    return None if run.implementation is None or run.sources is None else here(run.implementation)


def _age(run: Run) -> tuple[str, str]:
    return run.finished, run.id
