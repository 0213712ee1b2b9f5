"""What a study cannot say, by its own file, by what is missing and by how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lora2_bench.experiment.suites import rows
from lora2_bench.records.record import Record
from lora2_bench.tune.answer import winners_of_pair
from lora2_bench.tune.ledger import Begun, processor_of
from lora2_bench.tune.names import name_of
from lora2_bench.tune.space import read_space
from lora2_bench.tune.study import Study


def limits(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """What the study does not show, by its own file and by what is missing."""
    lines = [f"- {text}" for text in study.values["left_out"]]
    with_runs = {(run.row, run.task) for run, _ in begun.ended(records)}
    missing = [f"{row} on {task}" for row, task in study.places if (row, task) not in with_runs]
    if missing:
        lines.append(f"- Not there yet: runs of {', '.join(missing)}.")
    most = max((len(begun.of(*place)) for place in study.places), default=study.trials) or study.trials
    by_task = [task for task, names in study.tasks.items() if set(names) != set(study.rows)]
    if by_task:
        lines.append(f"- Fewer methods were planned on {', '.join(by_task)}: averages over all methods leave it out.")
    if recipes := _won_by_recipe(study, begun, records):
        lines.append(f"- Of the primary pair the recipe itself won for {recipes}: how it was once chosen counts there.")
    if len(kinds := _processors(begun, records)) > 1:
        told = ", ".join(f"{name} {count}" for name, count in kinds.items())
        lines.append(f"- Runs by processor: {told}. A run does not repeat to the digit on another.")
    if epochs := _epochs(begun, records):
        lines.append(f"- Runs train for {epochs}: how far methods come in that time, not where they would end.")
    if study.trials > 1:
        lines.append(
            f"- Equal trials do not cover the spaces alike. Hyperparameters searched over: {_dimensions(study)}."
        )
    lines += [
        f"- {most} trials find no optimum; all have as many, and curves.csv says what fewer draws give. Where trials "
        "learnt nothing, fewer could win."
        if study.trials > 1
        else "- Nothing is tuned: another rate may suit a row better than its recipe's.",
        "- Intervals and p take the winners as they are: the luck of the search is in none of them.",
        "- A mean over tasks weighs points of their metrics alike: the task whose scores vary most decides what can be "
        "told apart, and comparisons over other tasks are not on one scale.",
        "- Scores are of one backbone and of these tasks: nothing is said of larger ones.",
        "- Seeds change the head, the adapter, the order of rows and dropout, and never the dev rows: another dev set "
        "may differ by more than the intervals say.",
    ]
    return lines


def _processors(begun: Begun, records: Mapping[str, Record]) -> dict[str, str]:
    """Processor (`processor_of`) -> how many finished runs are of it, and, but for the commonest one, which."""
    places: dict[str, Counter[str]] = {}
    for run, record in begun.ended(records):
        if name := processor_of(record):
            places.setdefault(name, Counter())[f"{name_of(run.row)} on {run.task}"] += 1
    by_count = sorted(places, key=lambda name: -places[name].total())
    return {
        name: str(places[name].total()) + (f" ({', '.join(places[name])})" if at else "")
        for at, name in enumerate(by_count)
    }


def _epochs(begun: Begun, records: Mapping[str, Record]) -> str:
    """The epochs of the runs, as `3 epochs (cola), 2 epochs (stsb, mrpc)`."""
    by_task = {run.task: record.cell["train"]["epochs"] for run, record in begun.ended(records)}
    found: dict[str, list[str]] = {}
    for task, epochs in by_task.items():
        found.setdefault(f"{epochs:g} epoch{'s' if epochs != 1 else ''}", []).append(task)
    return ", ".join(f"{epochs} ({', '.join(tasks)})" for epochs, tasks in found.items())


def _dimensions(study: Study) -> str:
    """How many hyperparameters are searched over, as `1 (head), 2 (LoRA r=1, LoRA r=8)`."""
    found: dict[int, list[str]] = {}
    for row in study.rows:
        found.setdefault(len(read_space(rows()[row].method)), []).append(name_of(row))
    return ", ".join(f"{count} ({', '.join(found[count])})" for count in sorted(found))


def _won_by_recipe(study: Study, begun: Begun, records: Mapping[str, Record]) -> str:
    """Where a trial 0 of several is the winner of one of the primary pair, as `LoRA r=1 on cola`."""
    found = winners_of_pair(study, begun, records) if study.trials > 1 else []
    return ", ".join(f"{name_of(one.trial.row)} on {one.trial.task}" for one in found if one.trial.number == 0)
