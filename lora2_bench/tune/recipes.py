"""The winner of each row and task, and its recipe: `results/studies/NAME/recipes/ROW-TASK.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lora2_bench.experiment.suites import rows
from lora2_bench.files.writing import write_text
from lora2_bench.records.record import Record
from lora2_bench.tune.ledger import Begun, Folder, Trial, digest_of, score_of, trial_lines
from lora2_bench.tune.space import edges, read_space
from lora2_bench.tune.study import Pair, Study


@dataclass(frozen=True)
class Winner:
    """The best trial of a row on a task, its held-out score in points, and which of its values lie at an edge."""

    trial: Trial
    score: float
    at_edge: list[str]


def winner(trials: Sequence[Trial], records: Mapping[str, Record]) -> Winner | None:
    """The trial with the highest held-out score at the end of training; of equals the one with the lower number.

    Args:
        trials: of one place, by number.
        records: id -> record.

    Returns:
        None where none has finished.
    """
    scored = [
        (score, trial) for trial in trials if trial.id in records and (score := score_of(records[trial.id])) is not None
    ]
    first = trials[0]
    if not scored:
        return None
    score, best = max(scored, key=lambda one: (one[0], -one[1].number))
    at_edge = edges(read_space(rows()[first.row].method), first.values, best.values)
    return Winner(best, score, at_edge)


def winners(begun: Begun, records: Mapping[str, Record], places: Iterable[Pair]) -> dict[Pair, Winner | None]:
    """(row, task) -> winner, of the places whose trials have all ended; None where all of them failed."""
    tried = {place: trials for place in places if (trials := begun.of(*place))}
    return {
        place: winner(trials, records)
        for place, trials in tried.items()
        if all(trial.id in records for trial in trials)
    }


def write_recipe(
    folder: Folder, study: Study, found: Winner, trials: Sequence[Trial], records: Mapping[str, Record]
) -> Path:
    """Write the recipe of a winner, which names trial, score, cell and the ledger's line; returns its path."""
    trial = found.trial
    of_place = [one for one in trials if (one.row, one.task) == (trial.row, trial.task)]
    line = trial_lines(trials, records)[1][trial.row, trial.task, trial.number]
    metric = records[trial.id].result["main_metric"]
    head = (
        f"# Tuned: study {study.name}, {trial.row} on {trial.task}: trial {trial.number} ({trial.kind}) of "
        f"{len(of_place)}, held-out {metric} {found.score:.2f}\n# with the tuning seed {study.values['tuning_seed']}. "
        f"Cell {trial.id}, line {digest_of(line)} of ledger.csv. Equal scores go to the lower trial.\n"
    )
    values = {**study.settings_of(trial.row, trial.task), **trial.values}
    body = yaml.safe_dump(values, sort_keys=False)  # which writes 5.0e-05: YAML takes 5e-05 for a text
    base = f'defaults: ["/recipe/{study.model}/{rows()[trial.row].method}@_here_"]\n'
    path = study.recipe(trial.row, trial.task).path(folder.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, head + base + body)
    return path
