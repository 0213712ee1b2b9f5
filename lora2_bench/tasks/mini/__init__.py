"""The package's own data source: small generated tasks in the shape of GLUE's nine, made in memory from a seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from lora2_bench.tasks.data import Split
from lora2_bench.tasks.mini import entailment
from lora2_bench.tasks.spec import TaskSpec

TRAIN_ROWS = 2000
DEV_ROWS = 400
GRAMMARS = {"rte": entailment.rte}

def mini_splits(spec: TaskSpec, seed: int = 0) -> dict[str, Split]:
    seen = set()
    out = {}
    for name in spec.splits:
        rng = Random(f"{spec.name} {name} {seed}")
        n = TRAIN_ROWS if name == "train" else DEV_ROWS
        rows = []
        while len(rows) < n:
            label = spec.labels[len(rows) % len(spec.labels)]
            texts = GRAMMARS[spec.name](label, rng, name != "train")
            if texts in seen: continue
            seen.add(texts)
            rows.append((texts, spec.labels.index(label)))
        rng.shuffle(rows)
        out[name] = Split({c: [r[0][i] for r in rows] for i, c in enumerate(spec.columns)}, [r[1] for r in rows])
    return out
