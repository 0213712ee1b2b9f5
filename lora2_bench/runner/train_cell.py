"""Train and score one cell, and store its record."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lora2_bench import __version__
from lora2_bench.errors import CellFailed, OutOfMemory
from lora2_bench.experiment.plan import Plan, RunOptions
from lora2_bench.experiment.sources import sources_digest
from lora2_bench.files.writing import write_json
from lora2_bench.methods.base import Method
from lora2_bench.records.progress import Progress
from lora2_bench.records.record import Record
from lora2_bench.records.retention import write_retention
from lora2_bench.records.schema import Scoring
from lora2_bench.records.store import PREDICTIONS, RETENTION, TEST_PREDICTIONS, Store
from lora2_bench.records.test_predictions import Predicted, write_predicted
from lora2_bench.runner.facts import facts_of, prediction_table, record_of, scoring, with_results
from lora2_bench.runner.foreign import failure_of
from lora2_bench.runner.kept import keeps_weights, write_kept
from lora2_bench.runner.predict import predict_test
from lora2_bench.runner.retain import forgotten
from lora2_bench.runner.setup import Setup, set_up
from lora2_bench.runner.signals import stop_on_signals
from lora2_bench.tasks.metrics import main_score
from lora2_bench.tracking.tracker import Tracker, make_tracker
from lora2_bench.training.checkpoints import Checkpoints
from lora2_bench.training.evaluation import Evaluation, score
from lora2_bench.training.loop import Outcome, train
from lora2_bench.training.machine import code_state
from lora2_bench.training.pack import Pack
from lora2_bench.training.ranks import Ranks
from lora2_bench.training.state import load_trained_state
from lora2_bench.training.streams import masks_name


def run_cell(plan: Plan, store: Store, ranks: Ranks, pack: Pack | None = None) -> Record:
    """Train and score one cell, and store its record, dev predictions and adapter. A failed run is stored as failed.

    In a `pack` this call is one of those that it runs.

    Raises CellFailed where the record cannot be written: what was trained is then in the last checkpoint.
    """
    cell, place = plan.cell, plan.run_options
    started = time.perf_counter()
    sources = sources_digest(plan.implementation)  # before training: the files may be edited meanwhile
    setup = set_up(plan)
    origin = store.read(cell.init_from) if cell.init_from else None
    facts = facts_of(cell, setup.data, setup.rows, setup.method, origin.cell["task"] if origin else None)
    tracker = make_tracker(plan) if ranks.is_main else Tracker()
    times: dict[str, Any] = {"seconds_to_set_up": round(time.perf_counter() - started, 3)}
    origin_of_run = {
        "cell": cell.id,
        "steps": cell.train.total_steps(len(setup.train)),
        "data": facts["data"]["sha256"],
        "backbone": facts["backbone"]["sha256"],
        "package": __version__,
    }
    checkpoints = Checkpoints(store.running(cell.id) / "checkpoints", place.checkpoint, origin_of_run, code_state())
    progress = Progress(store.running(cell.id))
    predictions: dict[str, Any] = {}
    test: Predicted | None = None
    failure: CellFailed | None = None
    step = 0  # the last that was finished

    def on_step(done: int, total: int, evaluations: list[Evaluation]) -> None:
        nonlocal step
        step = done
        if ranks.is_main:
            progress.step(done, total, evaluations)

    try:
        with stop_on_signals() as stop_requested:
            outcome = train(
                cell,
                setup.method,
                setup.train,
                setup.selection,
                setup.accelerator,
                eval_batch_size=place.eval_batch_size,
                on_evaluation=tracker.evaluation,
                checkpoints=checkpoints,
                stop_requested=stop_requested,
                ranks=ranks,
                on_step=on_step,
                masks=setup.masks,
                pack=pack,
            )
        times |= {"seconds_per_step": round(outcome.seconds_per_step, 6), "continued_from": outcome.continued_from}
        facts = with_results(facts, setup.method, outcome)  # first: scoring dev goes back to the best step
        predictions, on_dev = ranks.on_main(partial(score_dev, plan, setup, outcome))
        if on_dev is not None:
            facts["best"], facts["last"] = on_dev, None
        if by_rank := ranks.on_main(partial(score_ranks, plan, setup, outcome.best_step)):
            facts["by_rank"] = by_rank
        if place.predict_test:
            test = ranks.on_main(partial(predict_test, plan, setup.method, setup.accelerator, outcome.best_step))
    except CellFailed as error:
        failure = error
    except Exception as error:
        failure = failure_of(type(setup.method), error, step + 1)
        if failure is None:
            raise
        failure.__cause__ = error
    seconds = checkpoints.seconds_before + time.perf_counter() - started
    times |= {"seconds": round(seconds, 3), "processes": ranks.world_size}
    times["masks"] = masks_name(setup.masks)
    if pack is not None:
        times["pack"] = pack.size
    record = record_of(plan, facts, times, checkpoints, sources, setup.accelerator.device.type, failure)

    # Before the record, which says that the cell is done: a process that is killed meanwhile goes on from a checkpoint.
    measured, trouble = None, None
    if place.retention and failure is None:
        try:
            measured = ranks.on_main(partial(forgotten, plan, setup.method, record.result["best"]["step"]))
        except Exception as error:  # raised once what was trained is kept, with what it can be measured from later
            trouble = error
            if not keeps_weights(setup.method, place.keep):
                place = replace(place, keep="weights")

    def keep() -> Record:
        write_record(record, predictions, test, setup.method, checkpoints, store, place, measured)
        if not isinstance(failure, OutOfMemory):  # which may go on from its checkpoint
            checkpoints.remove()
        progress.remove()
        tracker.finish(record)
        return store.read(cell.id) or record

    kept = ranks.on_main(keep)
    if trouble is not None:
        raise trouble
    return kept


def score_dev(plan: Plan, setup: Setup, outcome: Outcome) -> tuple[dict[str, Any], Scoring | None]:
    """Go back to the best checkpoint; returns the dev predictions, and under `clean` the scores on dev.

    Under `paper` the run evaluated on dev, and there is nothing to score; under `clean` dev is scored here only. Under
    `tune` it is never scored, and the predictions are of the held-out rows.
    """
    load_trained_state(setup.method, outcome.best_state)
    if plan.cell.protocol.name != "clean":
        return prediction_table(setup.rows.selection, {"best": outcome.best, "last": outcome.last}), None
    spec, model = plan.cell.spec, setup.method.backbone.model
    logits, metrics = score(
        model, spec, setup.dev, setup.accelerator, plan.run_options.eval_batch_size, outcome.best_step
    )
    best = scoring(outcome.best_step, main_score(spec, metrics), metrics, outcome.best_facts)
    return prediction_table(setup.rows.dev, {"best": logits}), best


def score_ranks(plan: Plan, setup: Setup, step: int) -> dict[str, Scoring]:
    """Rank -> scores on dev, for each rank that the method serves, with the weights of `step`, which are in place.

    No choice rests on them: the checkpoint is that of the largest rank. A trial, which scores no dev, has none.
    """
    spec, method, by_rank = plan.cell.spec, setup.method, {}
    for rank in method.ranks() if setup.dev else ():
        with method.at_rank(rank):
            _, metrics = score(
                method.backbone.model, spec, setup.dev, setup.accelerator, plan.run_options.eval_batch_size, step
            )
            by_rank[str(rank)] = scoring(step, main_score(spec, metrics), metrics, method.at_scoring())
    return by_rank


def write_record(
    record: Record,
    predictions: dict[str, Any],
    test: Predicted | None,
    method: Method,
    checkpoints: Checkpoints,
    store: Store,
    place: RunOptions,
    measured: dict[str, Any] | None,
) -> None:
    """Write the record; that of a finished cell with its predictions, and what it keeps of its method, beside it.

    `test` are predictions of the test rows, `measured` is what was forgotten, where they were asked for.
    """

    def write_outputs(folder: Path) -> None:
        write_json(folder / PREDICTIONS, predictions)
        if test is not None:
            write_predicted(folder / TEST_PREDICTIONS, record.id, test)
        if measured is not None:
            write_retention(folder / RETENTION, measured)
        write_kept(folder, record.id, method, record.spec, record.cell["train"]["max_length"], place.keep)

    try:
        store.write(record, write_outputs if record.is_done else None, over_finished=place.rerun)
    except OSError as error:
        raise cannot_write(record, error, store, checkpoints) from None


def cannot_write(record: Record, error: OSError, store: Store, checkpoints: Checkpoints) -> CellFailed:
    """The error of a cell whose record cannot be written."""
    reason = f"the record cannot be written below results={store.results} ({error.strerror or error})"
    if record.error is not None:
        return CellFailed(record.error["step"], f"{record.error['cause']}; {reason}")
    kept = f"step {checkpoints.newest_step} is kept" if checkpoints.newest_step else "no checkpoint is kept"
    return CellFailed(
        checkpoints.newest_step, f"{reason}; {kept}: free some space and run the same command to go on from it"
    )
