"""What a finished cell has forgotten: `retention.json` beside its record, which is never rewritten for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from lora2_bench.files.reading import read_json
from lora2_bench.files.writing import write_json, write_text
from lora2_bench.records.checking import Wrong, checker
from lora2_bench.records.digest import check_digest, with_digest
from lora2_bench.records.forms import INFINITY, Correlation, Count, Id, Line, Name, Range, Seconds, Sha256

SCHEMA = 2
"""Of what is measured and how: numbers of another one are not read, and measured anew where they are asked for."""
COMPACT = "retention.jsonl"
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
    return _checked(values, cell_id)


def compact_retention_paths(results: Path) -> list[Path]:
    """The files of `write_compact_retention` below a results folder, beside the records of a study or an exhibit."""
    return sorted((results / "studies").glob(f"*/{COMPACT}"))


def write_compact_retention(path: Path, found: Iterable[Retention]) -> None:
    """Write what was measured of many cells, one a line in the order of ids. Raises OSError where that fails."""
    lines = [json.dumps(one, separators=(",", ":"), ensure_ascii=False) for one in found]
    write_text(path, "".join(f"{line}\n" for line in sorted(lines, key=lambda line: str(json.loads(line)["cell"]))))


def read_compact_retention(path: Path) -> dict[str, Retention]:
    """Id -> what was measured. Raises OSError without a file, and ValueError with the line that is none."""
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            one = _checked(json.loads(line.decode("utf-8")), None)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
        found[one["cell"]] = one
    return found


def _checked(values: Any, cell_id: str | None) -> Retention:
    """The values, of one cell where an id is given. Raises ValueError for anything else."""
    try:
        checker(Retention)(values)
    except Wrong as error:
        raise ValueError(f"no file of retention: {error}") from None
    if values["schema"] != SCHEMA:
        raise ValueError(f"schema {values['schema']} is not {SCHEMA}, the one this version reads")
    check_digest(values)
    if cell_id not in (None, values["cell"]):
        raise ValueError(f"it is of cell {values['cell']}")
    found: Retention = values
    return found
