"""Whether the printed parameter counts follow from the architecture."""

from __future__ import annotations

from lora2_bench.paper import architecture
from lora2_bench.paper.architecture import DEBERTA_V3_BASE
from lora2_bench.paper.audit.checks import (
    INCONSISTENT,
    INNER_RANK,
    NOT_CHECKABLE,
    PARAMETERS,
    Check,
    printed_rows,
    verdict_on,
)
from lora2_bench.paper.printed import Range, decimal
from lora2_bench.paper.tables import Row


def check_parameters() -> list[Check]:
    """Every printed parameter count against the shapes of the encoder."""
    lines = []
    for row in printed_rows():
        if row.params is None:
            continue
        count, how = _count(row)
        verdict = verdict_on(row.params, Range.exact(count))
        if verdict == INCONSISTENT and row.method in ("adalora", "sora") and row.params.value < count:
            verdict = NOT_CHECKABLE
            under = decimal(100 * (1 - row.params.value / count), 0)
            how += f"; not the initial count but {under} % under it: a count after pruning would explain it"
        elif verdict == INCONSISTENT and row.params.is_truncation_of(count):
            how += f"; {row.params} is cut off, not rounded"
        what = f"{row.table}, parameters of {row.label}"
        lines.append(Check(PARAMETERS, what, row.params.text, f"{count:,}", verdict, how, row.source))
    return lines


def _count(row: Row) -> tuple[int, str]:
    """Initial trainable parameters on DeBERTaV3-base, and the formula."""
    size, shape = row.size or 0, DEBERTA_V3_BASE
    targets = row.variant.lower().split(",") if row.variant not in ("", "all") else architecture.ALL_MAPS
    over = f"for each of {len(targets)} maps in {shape.layers} layers"
    if row.method == "full":
        return architecture.full(shape), "all weights with a head of 2 labels"
    if row.method == "bitfit":
        return architecture.bitfit(shape), "biases of all maps and layer norms"
    if row.method == "lora":
        return architecture.lora(shape, size, targets), f"r (d_in + d_out) {over}"
    if row.method == "lora2":
        count = architecture.lora2(shape, size, INNER_RANK, targets)
        return count, f"k (d_in + d_out) + 2 k r + r {over}, r = {INNER_RANK}"
    return architecture.lora_with_gates(shape, size, targets), f"r (d_in + d_out) + r {over}"
