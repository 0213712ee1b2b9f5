"""Train and score one cell, and store its record."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lora2_bench import __version__
from lora2_bench.errors import CellFailed, OutOfMemory
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.plan import Plan
from lora2_bench.files.writing import write_json
from lora2_bench.records.progress import Progress
from lora2_bench.records.record import DONE, FAILED, Record
from lora2_bench.records.schema import Failure, Result
from lora2_bench.records.store import WEIGHTS, Store
from lora2_bench.runner.facts import facts_of, prediction_table, run_facts, scoring, with_results
from lora2_bench.runner.setup import Setup, set_up
from lora2_bench.runner.signals import stoppable
from lora2_bench.tasks.metrics import main_score
from lora2_bench.tracking.tracker import Tracker, make_tracker
from lora2_bench.training.checkpoints import Checkpoints
from lora2_bench.training.evaluation import score
from lora2_bench.training.loop import Outcome, train
from lora2_bench.training.machine import code_state
from lora2_bench.training.ranks import Crew
from lora2_bench.training.state import load_trained_state, trained_state


def run_cell(plan: Plan, store: Store, crew: Crew) -> Record:
    """Train and score one cell, and store its record, dev predictions and adapter. A failed run is stored as failed.

    Raises CellFailed where the record cannot be written: what was trained is then in the last checkpoint.
    """
    cell, place = plan.cell, plan.place
    started = time.perf_counter()
    setup = set_up(plan)
    origin = store.read(cell.init_from) if cell.init_from else None
    facts = facts_of(cell, setup.data, setup.rows, setup.method, origin.cell["task"] if origin else None)
    tracker = make_tracker(plan) if crew.is_main else Tracker()
    times: dict[str, Any] = {"seconds_to_set_up": round(time.perf_counter() - started, 3)}
    predictions: dict[str, Any] = {}
    error: Failure | None = None
    may_go_on = False
    sources = {"data": facts["data"]["sha256"], "backbone": facts["backbone"]["sha256"], "package": __version__}
    checkpoints = Checkpoints(store.running(cell.id) / "checkpoints", place.checkpoint, sources, code_state())
    progress = Progress(store.running(cell.id))
    try:
        with stoppable() as stop:
            outcome = train(
                cell,
                setup.method,
                setup.train,
                setup.choose,
                setup.accelerator,
                eval_batch_size=place.eval_batch_size,
                on_evaluation=tracker.evaluation,
                checkpoints=checkpoints,
                stop=stop,
                crew=crew,
                on_step=progress.step if crew.is_main else lambda *_: None,
            )
        times |= {"seconds_per_step": round(outcome.seconds_per_step, 6), "continued_from": outcome.continued_from}
        facts = with_results(facts, setup.method, outcome)
        predictions = crew.by_main(lambda: score_dev(cell, setup, outcome, facts, place.eval_batch_size))
    except CellFailed as failure:
        error = {"step": failure.step, "cause": failure.cause}
        may_go_on = isinstance(failure, OutOfMemory)
    times["seconds"] = round(time.perf_counter() - started, 3)
    record = Record(
        id=cell.id,
        status=DONE if error is None else FAILED,
        cell=cell.to_dict(),
        label=cell.method_label,
        cut=list(plan.cut),
        result=facts,
        run=run_facts(plan, {**times, "processes": crew.count}, checkpoints, setup.accelerator.device.type),
        error=error,
    )

    def beside(folder: Path) -> None:
        from lora2_bench.runner.export import export_adapter, save_tensors  # PEFT is wanted at the end only

        write_json(folder / "predictions.json", predictions)
        if setup.method.lora_factors() is not None:
            export_adapter(folder / "adapter", setup.method)
        if setup.method.keeps_weights:
            save_tensors(trained_state(setup.method), folder / WEIGHTS)

    def keep() -> Record:
        try:
            store.write(record, beside if record.is_done else None, over_finished=place.rerun)
        except OSError as reason:
            raise unwritten(record, reason, store, checkpoints) from None
        if not may_go_on:
            checkpoints.remove()
        progress.remove()
        tracker.finish(record)
        return store.read(cell.id) or record

    return crew.by_main(keep)


def unwritten(record: Record, error: OSError, store: Store, checkpoints: Checkpoints) -> CellFailed:
    """What ends a cell whose record cannot be written."""
    reason = f"the record cannot be written below results={store.results} ({error.strerror or error})"
    if record.error is not None:
        return CellFailed(record.error["step"], f"{record.error['cause']}; {reason}")
    kept = f"step {checkpoints.kept} is kept" if checkpoints.kept else "no checkpoint is kept"
    return CellFailed(checkpoints.kept, f"{reason}; {kept}: free some space and run the same command to go on from it")


def score_dev(cell: Cell, setup: Setup, outcome: Outcome, facts: Result, eval_batch_size: int) -> dict[str, Any]:
    """Go back to the best checkpoint and give the dev predictions; under `clean`, dev's one scoring happens here."""
    load_trained_state(setup.method, outcome.best_state)
    if cell.protocol.name == "paper":
        return prediction_table(setup.rows.dev, {"best": outcome.best, "last": outcome.last})
    model = setup.method.backbone.model
    logits, metrics = score(model, cell.spec, setup.dev, setup.accelerator, eval_batch_size, outcome.best_step)
    facts["best"] = scoring(outcome.best_step, main_score(cell.spec, metrics), metrics)
    facts["last"] = None
    return prediction_table(setup.rows.dev, {"best": logits})
