"""Run one plan: look its cell up, else train and score it, and keep the record."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora2_bench import __version__
from lora2_bench.crew import Crew
from lora2_bench.errors import CellFailed, Interrupted, OutOfMemory, UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.checks import in_steps
from lora2_bench.experiment.plan import Place, Plan
from lora2_bench.files.writing import write_json
from lora2_bench.records.lock import owned
from lora2_bench.records.progress import Progress
from lora2_bench.records.record import DONE, FAILED, Record, result_line
from lora2_bench.records.store import WEIGHTS, Store
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.metrics import main_name, main_score
from lora2_bench.tasks.sources import load_task

if TYPE_CHECKING:  # torch and its kin take seconds to import: a finished cell is printed without them
    from accelerate import Accelerator
    from torch import Tensor

    from lora2_bench.checkpoint import Checkpoints
    from lora2_bench.methods.base import Method
    from lora2_bench.tasks.encoding import Encoded
    from lora2_bench.train import Outcome


def run(plan: Plan) -> Record:
    """The plan's record: the stored one of a finished cell, else that of a new run. Prints the result line last.

    Raises UserError for bad input, before training; CellFailed when training ended early (its record is stored).
    """
    store = Store(plan.place.results)
    crew = join(plan)
    with ExitStack() as held:

        def begin() -> Record | None:
            if (record := finished(plan, store)) is not None:
                return record
            import_libraries()
            check_fit(plan)
            check_origin(plan.cell, store)
            store.check_writable()
            held.enter_context(owned(store.running(plan.cell.id), f"cell {plan.cell.id}"))
            store.tidy(plan.cell.id)
            return finished(plan, store)  # another process may have finished it meanwhile

        record = crew.by_main(begin) or run_cell(plan, store, crew)
    if crew.is_main:
        print(result_line(record, str(store.path(plan.cell.id))))
    if record.error is not None:
        raise CellFailed(record.error["step"], record.error["cause"])
    return record


def import_libraries() -> None:
    """Import what training needs, with no collection that looks through it all for garbage, then or later."""
    if "lora2_bench.train" in sys.modules:
        return  # frozen garbage of an earlier cell would stay for ever
    gc.disable()
    try:
        import lora2_bench.backbones.load
        import lora2_bench.train  # noqa: F401 (their import is all that is wanted)
    finally:
        gc.freeze()
        gc.enable()


def join(plan: Plan) -> Crew:
    """The processes that `accelerate launch` started, as this one sees them; alone without it."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Crew()
    from lora2_bench.train import make_accelerator

    accelerator = make_accelerator(plan.cell.train.precision, pick_device(plan.place))
    return Crew(accelerator.process_index, accelerator.num_processes, str(accelerator.device))


def finished(plan: Plan, store: Store) -> Record | None:
    """The stored record of the plan's cell where it is done and not to be trained anew."""
    known = None if plan.place.rerun else store.read(plan.cell.id)
    if known is None or not known.is_done:
        return None
    check_same_rows(plan, known)
    return known


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM, SIGUSR2 and the first Ctrl-C make the given function true instead of ending the process.

    Where the block ends with Interrupted, SIGUSR2 is handed on to the handler that was there before, if there was one:
    in a job of submitit's, that is what puts the job back into the queue.
    """
    told = threading.Event()
    numbers: set[int] = set()
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield told.is_set
        return

    def handler(number: int, _frame: object) -> None:
        told.set()
        numbers.add(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    interrupted = False
    try:
        yield told.is_set
    except Interrupted:
        interrupted = True
        raise
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        if interrupted and signal.SIGUSR2 in numbers and callable(before[signal.SIGUSR2]):
            signal.raise_signal(signal.SIGUSR2)


def check_same_rows(plan: Plan, known: Record) -> None:
    """Raise UserError where the files of `data=local` hold other rows than the stored record was made from.

    A cell's id has no path in it, so that records can be merged from any machine; where the files are not here (a
    merged record), there is nothing to compare.
    """
    folder = plan.place.data_dir
    if plan.cell.data.source != "local" or not folder or not Path(folder).expanduser().is_dir():
        return
    data = load_task(plan.cell.task, "local", glue_dir=folder)
    if data.content_hash() != known.result["data"]["sha256"]:
        raise UserError(
            f"data.dir={folder} has other rows ({data.rows}) than the stored record of this cell "
            f"({known.result['data']['source_rows']}): give another results=DIR, or rerun=true to replace it"
        )


def check_fit(plan: Plan) -> None:
    """Raise UserError where the method's options are impossible, or do not fit the steps that the row counts give.

    Nothing is loaded: the task's official row counts stand for the files'. The loaded rows are checked again.
    """
    from lora2_bench.methods.base import load_method
    from lora2_bench.tasks.mini import TRAIN_ROWS

    cell = plan.cell
    rows = TRAIN_ROWS if cell.data.source == "mini" else cell.spec.rows["train"]
    rows = min(rows, cell.data.max_train or rows)
    kind = load_method(plan.implementation)
    check_schedules(cell, kind, kind.parse(cell.method), cell.train.total_steps(rows - held_out_rows(cell, rows)))
    pick_device(plan.place)


def check_schedules(cell: Cell, kind: type[Method], options: Any, total_steps: int) -> None:
    """Raise UserError where the warm-up or one of the method's own schedules does not fit `total_steps`."""
    kind.check(options, total_steps)
    if (warmup := in_steps(cell.train.warmup, total_steps)) >= total_steps > 1:
        raise UserError(
            f"train.warmup={warmup} steps must be under the run's {total_steps} steps: train longer, or give a share "
            "such as train.warmup=0.06"
        )


def check_origin(cell: Cell, store: Store) -> None:
    """Raise UserError unless `init_from` is a finished cell of the same backbone and method that kept its weights."""
    if cell.init_from is None:
        return
    origin = store.read(cell.init_from)
    if origin is None or not origin.is_done:
        raise UserError(
            f"init_from={cell.init_from} is no finished cell in {store.cells}: run it first, or copy its folder there"
        )
    if not store.weights(cell.init_from).is_file():
        raise UserError(
            f"init_from={cell.init_from} ({origin.label} on {origin.cell['task']}) kept no weights: give a cell of an "
            "adapter or of bitfit"
        )
    if origin.cell["model"] != cell.to_dict()["model"]:
        raise UserError(
            f"init_from={cell.init_from} is a cell of another model={origin.cell['model']['name']}: give one of this "
            "backbone"
        )
    if (theirs := origin.cell["method"]["name"]) != cell.method["name"]:
        raise UserError(
            f"init_from={cell.init_from} is a cell of method={theirs}: give method={theirs}, or another cell"
        )


def pick_device(place: Place) -> str:
    """`cpu` or `cuda`. Raises UserError where a GPU is asked for and there is none."""
    import torch

    found = torch.cuda.is_available()
    if place.device == "cuda" and not found:
        raise UserError("device=cuda: torch finds no GPU here: give device=cpu, or device=auto to take what there is")
    return "cuda" if found and place.device != "cpu" else "cpu"


@dataclass(frozen=True)
class Rows:
    """A cell's rows: those that train, those that choose the checkpoint, and those that are scored in the end.

    Under `paper` the last two are the same dev splits. Under `clean` the checkpoint is chosen on rows held out of
    train, and dev is not looked at before.
    """

    train: Split
    choose: dict[str, Split]
    dev: dict[str, Split]

    def counts(self) -> dict[str, int]:
        """Rows per split."""
        return {"train": len(self.train), **{name: len(split) for name, split in (self.choose | self.dev).items()}}


def held_out_rows(cell: Cell, rows: int) -> int:
    """Rows of train that choose the checkpoint under `protocol=clean`; 0 under `paper`. Raises UserError for none."""
    count = round(cell.protocol.held_out * rows)
    if cell.protocol.name == "clean" and not 0 < count < rows:
        raise UserError(
            f"protocol.held_out={cell.protocol.held_out} of {rows} train rows leaves no rows on one side: give another "
            "share"
        )
    return count


def prepare_rows(cell: Cell, data: TaskData) -> Rows:
    """Cut and split a task's rows as the cell says: the same for every seed and method."""
    train = sample(data.splits["train"], cell.data.max_train)
    dev = {name: sample(data.splits[name], cell.data.max_eval) for name in cell.spec.dev_splits}
    if cell.protocol.name == "paper":
        return Rows(train, dev, dev)
    count = held_out_rows(cell, len(train))
    order = list(range(len(train)))
    random.Random(cell.protocol.split_seed).shuffle(order)
    held_out = train.take(sorted(order[:count]))
    return Rows(train.take(sorted(order[count:])), {"held_out": held_out}, dev)


def sample(split: Split, rows: int | None) -> Split:
    """At most `rows` rows of a split: a sample, the same for every cell, in the split's order."""
    if rows is None or rows >= len(split):
        return split
    return split.take(sorted(random.Random(0).sample(range(len(split)), rows)))


@dataclass(frozen=True)
class Setup:
    """What training needs: the task's rows, tokenised too, the injected method, and the device's accelerator."""

    data: TaskData
    rows: Rows
    method: Method
    train: Encoded
    choose: dict[str, Encoded]
    dev: dict[str, Encoded]
    accelerator: Accelerator


def load_rows(plan: Plan) -> tuple[TaskData, Rows]:
    """The task's data, and its rows as the cell takes them."""
    cell = plan.cell
    data = load_task(cell.task, cell.data.source, glue_dir=plan.place.data_dir, mini_seed=cell.data.seed or 0)
    return data, prepare_rows(cell, data)


def set_up(plan: Plan) -> Setup:
    """Load rows and backbone side by side, tokenise the rows and inject the method, all drawn from the cell's seed."""
    import torch

    from lora2_bench.backbones.load import load_backbone, own_trained
    from lora2_bench.methods.base import load_method
    from lora2_bench.process import set_up_process
    from lora2_bench.tasks.token_cache import encoder
    from lora2_bench.train import make_accelerator

    cell, place = plan.cell, plan.place
    set_up_process(place.threads)
    with ThreadPoolExecutor(1) as aside:  # it draws nothing from torch's generator
        loading = aside.submit(load_rows, plan)
        torch.manual_seed(cell.seed)  # the head's first weights: the same for every method
        backbone = load_backbone(
            cell.model,
            cell.spec.num_labels,
            cls_dropout=cell.train.cls_dropout,
            path=place.model_path,
            package=place.model_package,
            folder=place.model_folder,
        )
        data, rows = loading.result()
    total_steps = cell.train.total_steps(len(rows.train))
    kind = load_method(plan.implementation)
    options = kind.parse(cell.method)
    check_schedules(cell, kind, options, total_steps)

    assert backbone.tokenizer is not None
    encode = encoder(backbone.tokenizer, backbone.tokenizer_sha256, cell.spec, cell.train.max_length)
    dev = {name: encode(split) for name, split in rows.dev.items()}
    choose = dev if rows.choose is rows.dev else {name: encode(split) for name, split in rows.choose.items()}
    accelerator = make_accelerator(cell.train.precision, pick_device(place))
    backbone.model.to(accelerator.device)
    method = kind(options, total_steps, place.engine)
    method.inject(backbone, torch.Generator().manual_seed(cell.seed))
    own_trained(backbone)
    if cell.init_from is not None:
        load_adapter(method, Store(place.results).weights(cell.init_from), cell.init_from)
    return Setup(data, rows, method, encode(rows.train), choose, dev, accelerator)


def load_adapter(method: Method, path: Path, origin: str) -> None:
    """Put another cell's trained weights, its head left out, into an injected method. Raises UserError for others."""
    import torch
    from safetensors.torch import load_file

    head = set(method.backbone.head_parameters())
    wanted = {name: parameter for name, parameter in method.trainable().items() if name not in head}
    found = load_file(path)
    for name, parameter in wanted.items():
        if name not in found or found[name].shape != parameter.shape:
            has = f"{name} {tuple(found[name].shape)}" if name in found else f"no {name}"
            raise UserError(
                f"init_from={origin} has {has} where this cell has {tuple(parameter.shape)}: give the size and targets "
                "that it was trained with"
            )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(found[name])


def run_cell(plan: Plan, store: Store, crew: Crew) -> Record:
    """Train and score one cell, and store its record, dev predictions and adapter. A failed run is stored as failed.

    Raises CellFailed where the record cannot be written: what was trained is then in the last checkpoint.
    """
    from lora2_bench.checkpoint import Checkpoints
    from lora2_bench.machine import code_state
    from lora2_bench.tracker import Tracker, make_tracker
    from lora2_bench.train import train, trained_state

    cell, place = plan.cell, plan.place
    started = time.perf_counter()
    setup = set_up(plan)
    origin = store.read(cell.init_from) if cell.init_from else None
    facts = facts_of(cell, setup.data, setup.rows, setup.method, origin.cell["task"] if origin else None)
    tracker = make_tracker(plan) if crew.is_main else Tracker()
    times: dict[str, Any] = {"seconds_to_set_up": round(time.perf_counter() - started, 3)}
    predictions: dict[str, Any] = {}
    error: dict[str, Any] | None = None
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
        facts |= results_of(setup.method, outcome)
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
        write_json(folder / "predictions.json", predictions)
        if setup.method.lora_factors() is not None:
            from lora2_bench.export import export_adapter

            export_adapter(folder / "adapter", setup.method)
        if setup.method.keeps_weights:
            from lora2_bench.export import save_tensors

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


def facts_of(cell: Cell, data: TaskData, rows: Rows, method: Method, origin_task: str | None) -> dict[str, Any]:
    """What a record says of the rows, the backbone and the method before training."""
    return {
        "main_metric": main_name(cell.spec),
        "size": {"name": cell.size, "value": cell.size_value, "quotient": cell.quotient},
        "data": {
            "source": data.source,
            "official": data.is_official,
            "source_rows": data.rows,
            "rows": rows.counts(),
            "sha256": data.content_hash(),
            "notes": data.notes,
        },
        "backbone": {"name": method.backbone.name, "sha256": method.backbone.sha256},
        "parameters": method.parameters(),
        **({"init_from": {"cell": cell.init_from, "task": origin_task}} if origin_task else {}),
    }


def results_of(method: Method, outcome: Outcome) -> dict[str, Any]:
    """What training gives a record; `best` and `last` on the splits that choose the checkpoint."""
    by_step = {evaluation.step: evaluation for evaluation in outcome.evaluations}

    def at(step: int) -> dict[str, Any]:
        return {"step": step, "score": by_step[step].score, "metrics": by_step[step].metrics}

    return {
        "evaluations": [asdict(evaluation) for evaluation in outcome.evaluations],
        "best": at(outcome.best_step),
        "last": at(outcome.steps),
        "steps": outcome.steps,
        "epochs": outcome.epochs,
        "parameters": method.parameters(),
        **method.summary(),
    }


def score_dev(
    cell: Cell, setup: Setup, outcome: Outcome, facts: dict[str, Any], eval_batch_size: int
) -> dict[str, Any]:
    """Go back to the best checkpoint and give the dev predictions; under `clean`, dev's one scoring happens here."""
    from lora2_bench.train import load_trained_state, score

    load_trained_state(setup.method, outcome.best_state)
    if cell.protocol.name == "paper":
        return prediction_table(setup.rows.dev, {"best": outcome.best, "last": outcome.last})
    model = setup.method.backbone.model
    logits, metrics = score(model, cell.spec, setup.dev, setup.accelerator, eval_batch_size, outcome.best_step)
    facts["best"] = {"step": outcome.best_step, "score": main_score(cell.spec, metrics), "metrics": metrics}
    facts["last"] = None
    return prediction_table(setup.rows.dev, {"best": logits})


def prediction_table(splits: dict[str, Split], logits: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Per split: labels in row order, and the logits of each named checkpoint to nine digits (exact for float32)."""

    def exact(rows: Tensor) -> list[list[float]]:
        return [[float(f"{value:.9g}") for value in row] for row in rows.tolist()]

    return {
        name: {"labels": split.labels, **{when: exact(by_split[name]) for when, by_split in logits.items()}}
        for name, split in splits.items()
    }


def run_facts(plan: Plan, times: dict[str, Any], checkpoints: Checkpoints, device: str) -> dict[str, Any]:
    """What may differ between two runs of one cell: times, memory, versions, code, hardware, command and its paths."""
    from lora2_bench.machine import hardware, peak_memory, versions
    from lora2_bench.records.scrub import scrubbed

    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **times,
        "engine": plan.place.engine,
        "memory": peak_memory(device),
        "versions": versions(),
        "code": checkpoints.code,
        **({"code_before": checkpoints.code_before} if checkpoints.code_before else {}),
        "hardware": hardware(device),
        "command": scrubbed(plan.command),
        "config": scrubbed(plan.config),
    }
