"""Whether the printed data set sizes are GLUE's, and the ratios of the printed seconds per step."""

from __future__ import annotations

from fractions import Fraction

from lora2_bench.paper.audit.checks import CONSISTENT, DATASETS, INCONSISTENT, NOT_CHECKABLE, TIMES, Check, verdict_on
from lora2_bench.paper.printed import Range, decimal
from lora2_bench.paper.tables import SOURCE, dataset_sizes, table2
from lora2_bench.tasks.spec import TASKS


def check_dataset_sizes() -> list[Check]:
    """The printed data set sizes against GLUE's."""
    lines = []
    for size in dataset_sizes().values():
        wrong = []
        counts = []
        for split, printed in (("train", size.train), ("dev", size.dev), ("test", size.test)):
            count = sum(rows for name, rows in TASKS[size.task].rows.items() if name.partition("_")[0] == split)
            counts.append(f"{count:,}")
            if verdict_on(printed, Range.exact(count)) == INCONSISTENT:
                wrong.append(f"{split} rounds to {printed.like(Fraction(count))}")
                wrong += [f"{printed} is cut off"] if printed.is_truncation_of(count) else []
        lines.append(
            Check(
                DATASETS,
                f"rows of {TASKS[size.task].folder}, train / dev / test",
                f"{size.train} / {size.dev} / {size.test}",
                " / ".join(counts),
                INCONSISTENT if wrong else CONSISTENT,
                "; ".join(["GLUE's official row counts", *wrong]),
                f"{SOURCE}, table of the data sets",
            )
        )
    return lines


def check_step_times() -> list[Check]:
    """Table 2: how much longer a step of LoRA² takes than one of AdaLoRA, by the printed seconds."""
    return [
        Check(
            TIMES,
            f"Table 2, LoRA² against AdaLoRA on {TASKS[time.task].folder}",
            f"{time.lora2} s, {time.adalora} s",
            f"{decimal(100 * (time.lora2.value / time.adalora.value - 1), 0)} % longer",
            NOT_CHECKABLE,
            "ratio of the two printed times; the times themselves need the paper's machine",
            f"{SOURCE}, Table 2",
        )
        for time in table2().values()
    ]
