"""The schema of `record.json`, version 1: what each part holds, of what type, and within which range.

A record stays plain data, so that it is written as the bytes it was read from; these types say what stands where.
`checking.checker` makes a check of them, and mypy reads them. Keys beyond these are kept as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from lora2_bench.records.forms import METRIC, Correlation, Count, Id, Line, Name, Seconds, Sha256, Share


class ModelSettings(TypedDict):
    """Which backbone: a name and what pins its weights."""

    name: Name
    source: str
    sha256: str | None
    hub_id: str | None
    revision: str | None


class MethodSettings(TypedDict):
    """A method's name, with its options beside it: they are the method's own, and its `Options` has checked them."""

    name: Name


class DataSettings(TypedDict):
    """Which rows; `seed` is the generator's, None for real ones."""

    source: Name
    seed: int | None
    max_train: Count | None
    max_eval: Count | None


class TrainSettings(TypedDict):
    """How a cell is trained, as `experiment.cell.Train`; without `head_lr` in records from before that setting."""

    epochs: float
    max_steps: Count | None
    batch_size: Count
    accumulate: Count
    lr: float
    weight_decay: float
    schedule: str
    warmup: float
    max_grad_norm: float
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    max_length: Count
    cls_dropout: float | None
    eval_steps: Count | None
    precision: str
    looks: NotRequired[Count | None]
    head_lr: NotRequired[float | None]


class ProtocolSettings(TypedDict):
    """How the checkpoint is chosen: `paper`, `clean` or `tune`."""

    name: Name
    held_out: float
    split_seed: int


class Definition(TypedDict):
    """What a user's own task is, as `tasks.spec.own_spec` takes it; `rows` and `sha256` are its files', by split."""

    columns: list[Line]
    labels: list[Line]
    metrics: list[Name]
    main: list[Name]
    rows: dict[str, Count]
    sha256: dict[str, Sha256]


class CellSettings(TypedDict):
    """The science, as `Cell.to_dict`; without `init_from` and `rng_version` in earlier records.

    `definition` is of a user's own task, and no other cell has it.
    """

    model: ModelSettings
    task: Name
    definition: NotRequired[Definition]
    method: MethodSettings
    size: Name | None
    data: DataSettings
    train: TrainSettings
    protocol: ProtocolSettings
    seed: Count
    init_from: NotRequired[str | None]
    rng_version: NotRequired[Count]


class Metrics(TypedDict):
    """The metrics of one split, those of its task; `loss` is the mean loss without any penalty."""

    accuracy: NotRequired[Share]
    f1: NotRequired[Share]
    macro_f1: NotRequired[Share]
    matthews_correlation: NotRequired[Correlation]
    pearson: NotRequired[Correlation]
    spearman: NotRequired[Correlation]
    loss: NotRequired[float]


class Scoring(TypedDict):
    """The scores after `step` optimiser steps: the task's deciding number, and split -> metrics.

    `best` and `last` have the method's facts of that step too, but in earlier records: `active` parameters, `ranks`
    (layer -> map -> ranks in use) with their sum `ranks_kept`, and whether the rank budget was met by then.
    """

    step: Count
    score: Correlation
    metrics: dict[str, Metrics]
    active: NotRequired[Count]
    ranks: NotRequired[dict[str, dict[str, Count]]]
    ranks_kept: NotRequired[Count]
    budget_met: NotRequired[bool]


class Evaluation(Scoring):
    """A scoring during training; `train_loss` is the mean since the one before, None before the first step."""

    epoch: float
    train_loss: float | None


class Size(TypedDict):
    """The paper's K/R setting: the option's name and value, and k / r where a method has both."""

    name: str | None
    value: int | None
    quotient: float | None


class Rows(TypedDict):
    """The rows that a cell saw: `source_rows` are the source's own, `rows` those used; both by split.

    `labels` counts the rows used by class, of train and of dev; a regression and earlier records have none.
    """

    source: Name
    official: bool
    source_rows: dict[str, Count]
    rows: dict[str, Count]
    labels: NotRequired[dict[str, list[Count]]]
    sha256: str
    notes: list[str]


class Backbone(TypedDict):
    """The backbone's name and the digest of its weights."""

    name: Name
    sha256: str | None


class Parameters(TypedDict):
    """Trained parameters: the adapter's (the paper's #Params), the head's, and what of the adapter survives pruning."""

    adapter: Count
    head: Count
    active: Count


class FrozenWeights(TypedDict):
    """The frozen weights that a method keeps in few bits: bytes as kept, bytes in float32 (as LoRA keeps them), digest.

    Constants and tables that they are computed from are counted; biases, norms and embeddings stay as they are.
    """

    bytes: Count
    bytes_float32: Count
    sha256: str


class Origin(TypedDict):
    """The finished cell whose adapter a cell started from, and its task."""

    cell: str
    task: str


class Result(TypedDict):
    """Numbers that the same cell gives again.

    A failed cell has none from `evaluations` on. `last` is None under the clean protocol. `ranks` is layer -> map ->
    ranks kept; only methods that have ranks give them, with their sum before and after (`ranks_initial`,
    `ranks_kept`). `frozen_weights` is given by methods that quantise the backbone, and by no record from before them.
    `by_rank` is rank -> scores on dev at the best step, where one training serves several ranks.
    """

    main_metric: Annotated[str, METRIC]
    size: Size
    data: Rows
    backbone: Backbone
    parameters: Parameters
    init_from: NotRequired[Origin]
    evaluations: NotRequired[list[Evaluation]]
    best: NotRequired[Scoring]
    last: NotRequired[Scoring | None]
    steps: NotRequired[Count]
    epochs: NotRequired[float]
    ranks: NotRequired[dict[str, dict[str, Count]]]
    ranks_kept: NotRequired[Count]
    ranks_initial: NotRequired[Count]
    by_rank: NotRequired[dict[str, Scoring]]
    frozen_weights: NotRequired[FrozenWeights]


class Hardware(TypedDict):
    """The machine, without its host name."""

    machine: NotRequired[str | None]
    processor: NotRequired[str | None]
    cores: NotRequired[Count | None]
    threads: NotRequired[Count | None]
    gpu: NotRequired[str | None]


class Code(TypedDict):
    """Commit and dirty flag of the checkout; None for an installed wheel."""

    sha: str | None
    dirty: bool | None


class Config(TypedDict):
    """The composed config, paths scrubbed: the recipe that a cell names, beside much else."""

    recipe: NotRequired[dict[str, Any]]
    method: NotRequired[dict[str, Any]]
    train: NotRequired[dict[str, Any]]


class RunFacts(TypedDict):
    """What may differ between two runs of the same cell. `seconds_per_step` is of training; a failed cell has none.

    `sources` is the digest of the code that can change the result (experiment/sources.py); earlier records have none.
    `masks` is what the backbone's dropout drew from (torch where a record has none: all earlier ones drew from it).
    `pack` is the number of cells of one process that trained side by side, of all of which `seconds_per_step` is then.
    `rescored` is the version that computed the best and last scores again from stored predictions.
    """

    finished: Line
    seconds: Seconds
    command: list[str]
    seconds_to_set_up: NotRequired[Seconds]
    seconds_per_step: NotRequired[Seconds | None]
    continued_from: NotRequired[Count | None]
    processes: NotRequired[Count]
    engine: NotRequired[str]
    masks: NotRequired[str]
    pack: NotRequired[Count]
    memory: NotRequired[dict[str, Count]]
    versions: NotRequired[dict[str, str]]
    code: NotRequired[Code]
    sources: NotRequired[str]
    code_before: NotRequired[list[Code]]
    rescored: NotRequired[str]
    hardware: NotRequired[Hardware]
    config: NotRequired[Config]


class Failure(TypedDict):
    """Step and cause of a failed cell."""

    step: Count
    cause: str


class RecordValues(TypedDict):
    """The whole file, in the order that it is written in.

    `files` are digests of what lies beside it, `sha256` is that of all else in it; earlier records have neither.
    """

    schema: int
    id: Id
    status: str
    cell: CellSettings
    label: Line
    cut: list[Line]
    result: Result
    run: RunFacts
    error: Failure | None
    files: NotRequired[dict[str, Sha256]]
    sha256: NotRequired[Sha256]
