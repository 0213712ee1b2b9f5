"""What GLUE's server takes: eleven TSV files, `index` and `prediction`, in a zip without folders.

Source: gluebenchmark.com/faq and its sample submission. CoLA, SST-2, MRPC, QQP and WNLI are answered with 0 and 1, the
NLI tasks with words, STS-B with a number from 0 to 5; AX is the diagnostic set.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora2_bench.tasks.spec import TASKS, test_parts

_DIGITS = ("0", "1")
_LOWEST, _HIGHEST = 0.0, 5.0
_STAMP = (1980, 1, 1, 0, 0, 0)  # the same answers give the same bytes


@dataclass(frozen=True)
class ServerFile:
    """One file of a submission.

    Attributes:
        name: the file's.
        task: the task whose cell answers it.
        part: what the rows are called among that cell's test predictions.
        rows: how many answers the server wants.
        words: how it wants each class, in the order of the label ids; empty for a score.
    """

    name: str
    task: str
    part: str
    rows: int
    words: tuple[str, ...]


def _file(name: str, task: str, part: str = "test", words: tuple[str, ...] = _DIGITS) -> ServerFile:
    spec, split = test_parts(TASKS[task])[part]
    return ServerFile(name, task, part, spec.rows[split], words)


FILES = (
    _file("CoLA.tsv", "cola"),
    _file("SST-2.tsv", "sst2"),
    _file("MRPC.tsv", "mrpc"),
    _file("STS-B.tsv", "stsb", words=()),
    _file("QQP.tsv", "qqp"),
    _file("MNLI-m.tsv", "mnli", "test_matched", TASKS["mnli"].labels),
    _file("MNLI-mm.tsv", "mnli", "test_mismatched", TASKS["mnli"].labels),
    _file("QNLI.tsv", "qnli", words=TASKS["qnli"].labels),
    _file("RTE.tsv", "rte", words=TASKS["rte"].labels),
    _file("WNLI.tsv", "wnli"),
    _file("AX.tsv", "mnli", "ax", TASKS["mnli"].labels),
)
"""Every file of a submission."""


def answers(file: ServerFile, logits: NDArray[np.float32]) -> tuple[list[str], str]:
    """The answers to one file from (rows, outputs) logits, and a note on what was changed; "" for nothing.

    Scores of STS-B outside 0 to 5, which the server refuses, become the nearer end. Raises ValueError with the reason
    for another number of rows or outputs than the file's, and for outputs that are no finite numbers.
    """
    outputs = len(file.words) or 1
    if logits.ndim != 2 or logits.shape[1] != outputs:
        raise ValueError(f"{file.name} needs {outputs} outputs a row, and the predictions are {logits.shape}")
    if len(logits) != file.rows:
        raise ValueError(
            f"{file.name} needs {file.rows} rows, and {len(logits)} are predicted: predict GLUE's own test file"
        )
    if not np.isfinite(logits).all():
        raise ValueError(f"{file.name} has predictions that are no finite numbers")
    if file.words:
        return [file.words[index] for index in logits.argmax(axis=1)], ""
    scores = logits[:, 0].astype(np.float64)
    outside = int(((scores < _LOWEST) | (scores > _HIGHEST)).sum())
    note = f"{outside} scores outside {_LOWEST:g} to {_HIGHEST:g} set to the nearer end" if outside else ""
    return [f"{score:.6f}" for score in scores.clip(_LOWEST, _HIGHEST)], note


def tsv(given: Sequence[str]) -> bytes:
    """One file: a header, then each row's place, from 0, with its answer."""
    lines = ["index\tprediction", *(f"{index}\t{answer}" for index, answer in enumerate(given))]
    return ("\n".join(lines) + "\n").encode()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The zip of these files, in their order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _STAMP)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return stream.getvalue()
