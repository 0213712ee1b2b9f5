"""All measures of one cell: the adapted encoder and the same encoder at its start, by the same code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.errors import UserError
from lora2_bench.retention.encoder import Features, frozen, pooled
from lora2_bench.retention.mlm import masked_loss, original_head, text_sha256
from lora2_bench.retention.probe import pair_features, probe_score
from lora2_bench.retention.rows import STS, Source, digest_of
from lora2_bench.retention.sts import similarity_score
from lora2_bench.retention.weights import THRESHOLD, TOP, map_changes
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.encoding import EncodedSplit
from lora2_bench.tasks.metrics import main_name
from lora2_bench.tasks.spec import TASKS, TaskSpec
from lora2_bench.tasks.token_cache import encoder

_KNOWN_BASES: dict[tuple[Any, ...], float] = {}
"""Scores of bases measured by this process: the cells of a sweep share their backbone and their rows."""


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        adapted: the backbone with the method in it, at the weights to measure.
        base: the same backbone as it was published, on the same device.
        files: the tensors of its weights files.
        max_length: tokens of a row at most.
        step: of the weights, for errors.
    """

    adapted: Backbone
    base: Backbone
    files: Callable[[], dict[str, Tensor]]
    max_length: int
    batch_size: int
    step: int


def measure(subject: Subject, source: Source, measures: Sequence[str]) -> dict[str, Any]:
    """Each of `measures` (sts, probe, mlm, weights) that can be taken, and under `missing` why others cannot.

    Neither model is changed, and no random number is drawn. Raises OutOfMemory where a batch does not fit.
    """
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    with frozen(subject.adapted), frozen(subject.base):
        for name in measures:
            absent = source.lacking(name)
            missing |= absent
            if name in absent:
                continue
            try:
                values = _MEASURES[name](subject, source, missing)
            except UserError as error:
                missing[name] = str(error)
                continue
            found |= {name: values} if values else {}
    return {**found, "missing": missing}


def _sts(subject: Subject, source: Source, _: dict[str, str]) -> dict[str, Any]:
    rows = source.sts_rows()
    sha256 = digest_of(STS, {"dev": rows})
    sentences = _texts_alone(subject, TASKS[STS], rows)

    def score(backbone: Backbone) -> float:
        first, second = (pooled(backbone, one, subject.batch_size, subject.step) for one in sentences)
        return similarity_score(first, second, rows.labels)

    return {**_both(subject, score, "sts", sha256), "rows": len(rows), "sha256": sha256}


def _probe(subject: Subject, source: Source, missing: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for task in source.probed():
        if f"probe.{task}" in missing:
            continue
        try:
            train, dev = source.probe_rows(task)
        except UserError as error:
            missing[f"probe.{task}"] = str(error)
            continue
        found[task] = _probed(subject, TASKS[task], train, dev)
    return found


def _probed(subject: Subject, spec: TaskSpec, train: Split, dev: Split) -> dict[str, Any]:
    sha256 = digest_of(spec.name, {"train": train, "dev": dev})
    coded = [_texts_alone(subject, spec, split) for split in (train, dev)]

    def score(backbone: Backbone) -> float:
        fitted, asked = (_features(subject, backbone, texts) for texts in coded)
        return probe_score(spec, fitted, train.labels, asked, dev.labels)

    values = _both(subject, score, f"probe.{spec.name}", sha256)
    return {
        "metric": main_name(spec),
        **values,
        "train_rows": len(train),
        "dev_rows": len(dev),
        "sha256": sha256,
    }


def _mlm(subject: Subject, _: Source, __: dict[str, str]) -> dict[str, Any]:
    model = original_head(subject.base, subject.files())
    counts: list[int] = []

    def loss(backbone: Backbone) -> float:
        encoder_: nn.Module = backbone.model.base_model
        value, count = masked_loss(model, encoder_, subject.base, subject.max_length, subject.batch_size)
        counts.append(count)
        return value

    sha256 = text_sha256()
    return {**_both(subject, loss, "mlm", sha256), "tokens": counts[0], "sha256": sha256}


def _weights(subject: Subject, _: Source, __: dict[str, str]) -> dict[str, Any]:
    maps = {
        str(layer): {
            name: {
                "update": change.update,
                "effective_rank": change.effective_rank,
                "intruders": change.intruders,
                "cosines": [round(cosine, 4) for cosine in change.cosines],
            }
            for name, change in of_layer.items()
        }
        for layer, of_layer in map_changes(subject.base, subject.adapted).items()
    }
    return {"top": TOP, "threshold": THRESHOLD, "maps": maps}


_MEASURES = {"sts": _sts, "probe": _probe, "mlm": _mlm, "weights": _weights}


def _texts_alone(subject: Subject, spec: TaskSpec, split: Split) -> list[EncodedSplit]:
    """Each of the task's one or two texts as an input of its own."""
    tokenizer = subject.base.tokenizer
    assert tokenizer is not None
    of = (replace(spec, columns=(column,)) for column in spec.columns)
    return [
        encoder(tokenizer, subject.base.tokenizer_sha256, one, subject.max_length)(
            Split({column: split.texts[column] for column in one.columns}, split.labels)
        )
        for one in of
    ]


def _features(subject: Subject, backbone: Backbone, texts: Sequence[EncodedSplit]) -> Features:
    found = [pooled(backbone, one, subject.batch_size, subject.step) for one in texts]
    return found[0] if len(found) == 1 else pair_features(*found)


def _both(subject: Subject, score: Callable[[Backbone], float], name: str, sha256: str) -> dict[str, float]:
    """The score of the base and of the adapted encoder; that of a base is remembered where its files are known."""
    base = subject.base
    device = next(base.model.parameters()).device.type
    key = (name, sha256, base.sha256, base.tokenizer_sha256, subject.max_length, subject.batch_size, device)
    after = score(subject.adapted)
    if base.sha256 is None or key not in _KNOWN_BASES:
        _KNOWN_BASES[key] = score(base)
    return {"before": _KNOWN_BASES[key], "after": after}
