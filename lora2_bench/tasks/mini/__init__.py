"""The package's own data source: small generated tasks, GLUE's nine in shape and one of its own, made from a seed."""

from __future__ import annotations

from random import Random

from lora2_bench.tasks.data import Split
from lora2_bench.tasks.mini.distant import distant
from lora2_bench.tasks.mini.entailment import mnli, rte, wnli
from lora2_bench.tasks.mini.lexicon import Source
from lora2_bench.tasks.mini.paraphrase import mrpc, qnli, qqp, stsb
from lora2_bench.tasks.mini.single import cola, sst2
from lora2_bench.tasks.spec import TaskSpec

TRAIN_ROWS = 2000
DEV_ROWS = 400
_GRAMMARS = {
    "cola": cola,
    "sst2": sst2,
    "mrpc": mrpc,
    "qqp": qqp,
    "mnli": mnli,
    "qnli": qnli,
    "rte": rte,
    "wnli": wnli,
    "distant": distant,
}
_SCORES = range(6)


def mini_splits(spec: TaskSpec, seed: int = 0) -> dict[str, Split]:
    """The generated task's splits, keyed as `spec.splits`: 2,000 train rows and 400 per dev split.

    The same seed gives the same rows on any machine. No row occurs twice, in one split or in two; dev rows also use
    words, and combinations of words, that train never shows. Labels are balanced.
    """
    seen: set[tuple[str, ...]] = set()
    return {name: _split(spec, name, seed, seen) for name in spec.splits}


def _split(spec: TaskSpec, name: str, seed: int, seen: set[tuple[str, ...]]) -> Split:
    rng = Random(f"mini/{spec.name}/{name}/{seed}")
    source = Source(rng, held_out=name != "train", mismatched=name == "dev_mismatched")
    rows: list[tuple[tuple[str, ...], float | int]] = []
    count = TRAIN_ROWS if name == "train" else DEV_ROWS
    while len(rows) < count:
        texts, label = _row(spec, len(rows), source)
        if texts not in seen:
            seen.add(texts)
            rows.append((texts, label))
    rng.shuffle(rows)
    columns = {column: [texts[i] for texts, _ in rows] for i, column in enumerate(spec.columns)}
    return Split(columns, [label for _, label in rows])


def _row(spec: TaskSpec, number: int, source: Source) -> tuple[tuple[str, ...], float | int]:
    if spec.is_regression:
        score = _SCORES[number % len(_SCORES)]
        return stsb(score, source), float(score)
    label = number % spec.num_labels
    return _GRAMMARS[spec.name](spec.labels[label], source), label
