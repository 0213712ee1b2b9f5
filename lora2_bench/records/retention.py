"""What a finished cell has forgotten: `retention.json` beside its record, which is never rewritten for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from lora2_bench.files.reading import read_json
from lora2_bench.files.writing import write_json
from lora2_bench.records.checking import Wrong, checker
from lora2_bench.records.digest import check_digest, with_digest
from lora2_bench.records.forms import INFINITY, Correlation, Count, Id, Line, Name, Range, Seconds, Sha256

SCHEMA = 1
NotNegative = Annotated[float, Range(0, INFINITY)]


class Sts(TypedDict):
    """Spearman's correlation on STS-B without any training on it; `sha256` is of the rows, texts and scores."""

    before: Correlation
    after: Correlation
    rows: Count
    sha256: Sha256


class Probe(TypedDict):
    """The deciding number of a linear probe on one task's dev rows; `sha256` is of the rows of both splits."""

    metric: Line
    before: Correlation
    after: Correlation
    train_rows: Count
    dev_rows: Count
    sha256: Sha256


class Mlm(TypedDict):
    """Nats a masked token with the original head; `sha256` is of the text's sentences."""

    before: NotNegative
    after: NotNegative
    tokens: Count
    sha256: Sha256


class MapFacts(TypedDict):
    """One linear map: ‖ΔW‖/‖W₀‖ (Frobenius), the update's effective rank (0 without an update), intruder dimensions.

    `cosines` are, for each of the top singular vectors of W, the largest |cosine| with any of W₀'s.
    """

    update: NotNegative
    effective_rank: NotNegative
    intruders: Count
    cosines: list[Annotated[float, Range(0, 1)]]


class Weights(TypedDict):
    """All maps of the encoder, layer -> map -> facts; `top` vectors count, and under `threshold` one is an intruder."""

    top: Count
    threshold: NotNegative
    maps: dict[str, dict[str, MapFacts]]


class Measured(TypedDict):
    """When and by what it was measured."""

    finished: Line
    seconds: Seconds
    cpu_seconds: Seconds
    versions: dict[str, str]


class Retention(TypedDict):
    """The whole file.

    `cell` is the id, `step` that of the weights, `asked` the measures that were asked for, `missing` those that could
    not be taken (a measure, or `probe.TASK`), each with the reason.
    """

    schema: int
    cell: Id
    step: Count
    asked: list[Name]
    sts: NotRequired[Sts]
    probe: NotRequired[dict[str, Probe]]
    mlm: NotRequired[Mlm]
    weights: NotRequired[Weights]
    missing: dict[str, Line]
    run: Measured
    sha256: Sha256


def write_retention(path: Path, values: Mapping[str, Any]) -> None:
    """Write what was measured of a cell with a digest of all of it. Raises OSError where that fails."""
    write_json(path, with_digest(values))


def read_retention(path: Path, cell_id: str) -> Retention | None:
    """What is stored of one cell, or None where there is no file.

    Raises ValueError with the reason where the file cannot be read, is another cell's, or is not as it was written.
    """
    try:
        values = read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    try:
        checker(Retention)(values)
    except Wrong as error:
        raise ValueError(f"no file of retention: {error}") from None
    if values["schema"] != SCHEMA:
        raise ValueError(f"schema {values['schema']} is not {SCHEMA}, the one this version reads")
    check_digest(values)
    if values["cell"] != cell_id:
        raise ValueError(f"it is of cell {values['cell']}")
    found: Retention = values
    return found
