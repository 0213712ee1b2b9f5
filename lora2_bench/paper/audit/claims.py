"""Whether the claims of the text follow from the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from lora2_bench.paper import architecture
from lora2_bench.paper.architecture import BERT_LARGE, DEBERTA_V3_BASE, ROBERTA_LARGE
from lora2_bench.paper.audit.checks import CLAIMS, CONSISTENT, INNER_RANK, NOT_CHECKABLE, Check, verdict_on
from lora2_bench.paper.printed import Printed, Range, decimal
from lora2_bench.paper.tables import Claim, Row, claims, table1


def check_claims() -> list[Check]:
    """A check for every figure that the text claims."""
    every = claims()
    lora2_1, lora2_8 = table1()["K/R=1", "lora2", "k=1"], table1()["K/R=8", "lora2", "k=8"]
    adalora = table1()["K/R=1", "adalora", "r=2"]
    rte = lora2_1.scores["rte"].range - adalora.scores["rte"].range
    lines = [_claim(every["rte_gap"], rte, f"{lora2_1.scores['rte']} − {adalora.scores['rte']} in Table 1")]
    for size, ours in ((1, lora2_1), (8, lora2_8)):
        for method in ("lora", "sora"):
            theirs = table1()[f"K/R={size}", method, f"r={size}"]
            lines.append(_average_gap(every[f"average_gap_{method}_{size}"], ours, theirs))
    return [*lines, _trainable_share(every["trainable_share"]), _score_cost(every["score_cost"]), *_roberta_large()]


def _claim(claim: Claim, recomputed: Range, how: str, shown: str | None = None) -> Check:
    printed = claim.printed
    return Check(
        CLAIMS,
        claim.claim,
        printed.text,
        shown or printed.like(recomputed.value),
        verdict_on(printed, recomputed),
        how,
        claim.source,
    )


def _average_gap(claim: Claim, ours: Row, theirs: Row) -> Check:
    """The difference of two averages; where it is not the printed one, `how` names the averages that give that."""
    tasks: Callable[[Row], Range] = Row.mean_over_tasks
    columns: Callable[[Row], Range] = Row.mean_over_columns
    readings = {
        "averages over 8 tasks": (tasks, tasks),
        "averages over all 10 columns": (columns, columns),
        "LoRA²'s average over all 10 columns, the other's over 8 tasks": (columns, tasks),
    }
    lines = []
    for name, (of_ours, of_theirs) in readings.items():
        one, other = (
            Printed(ours.average.like(of_ours(ours).value)),
            Printed(theirs.average.like(of_theirs(theirs).value)),
        )
        lines.append(_claim(claim, one.range - other.range, f"{one} − {other}, {name}"))
    rule, *others = lines
    if rule.verdict == CONSISTENT:
        return rule
    explained = [f"{claim.printed} fits {line.how}" for line in others if line.verdict == CONSISTENT]
    return replace(rule, how="; ".join([rule.how, *explained]))


def _trainable_share(claim: Claim) -> Check:
    adapter, whole = architecture.lora2(DEBERTA_V3_BASE, 8, INNER_RANK), architecture.full(DEBERTA_V3_BASE)
    return _claim(claim, Range.exact(Fraction(100 * adapter, whole)), f"{adapter:,} of {whole:,} parameters")


def _score_cost(claim: Claim) -> Check:
    """Each parameter of an adapter has one score; A and D are the large factors."""
    width = DEBERTA_V3_BASE.width
    of_a_map = Fraction(2 * width, 2 * width + 2 * INNER_RANK + INNER_RANK)
    of_all = Fraction(architecture.lora(DEBERTA_V3_BASE, 1), architecture.lora2(DEBERTA_V3_BASE, 1, INNER_RANK))
    how = (
        f"share of the two large factors in one {width}×{width} map with k = 1 and r = {INNER_RANK}; "
        f"over all maps of DeBERTaV3-base it is {decimal(100 * of_all, 2)}%"
    )
    return _claim(claim, Range.exact(100 * of_a_map), how, f"{decimal(100 * of_a_map, 2)}%")


def _roberta_large() -> list[Check]:
    every = claims()
    ours, whole = architecture.lora2(ROBERTA_LARGE, 1, INNER_RANK), architecture.full(ROBERTA_LARGE)
    theirs = architecture.lora(ROBERTA_LARGE, 8, ("q", "v"))
    full, compression = every["roberta_large_full"].printed, every["roberta_large_compression"].printed
    lora, saving, gain = every["roberta_large_lora"], every["roberta_large_saving"], every["roberta_large_gain"]
    share = Range.exact(100 * ours) / full.range
    left = (1 - compression.value / 100) * full.value
    lora_how = "LoRA r=8 on the query and value maps, as in LoRA's own study"
    return [
        _claim(
            every["roberta_large_params"],
            Range.exact(ours),
            f"k (d_in + d_out) + 2 k r + r for each of 6 maps in 24 layers, r = {INNER_RANK}",
            f"{ours:,}",
        ),
        _claim(
            every["roberta_large_full"],
            Range.exact(whole),
            f"all weights with a head of 2 labels; BERT-large has {architecture.full(BERT_LARGE):,}",
            f"{whole:,}",
        ),
        _claim(
            every["roberta_large_compression"],
            Range.exact(100) - share,
            f"1 − {ours:,} / {full}; {compression} would leave {round(left):,} parameters",
        ),
        _claim(lora, Range.exact(theirs), lora_how, f"{theirs:,}"),
        _claim(
            saving,
            lora.printed.range - Range.exact(ours),
            f"the printed {lora.printed} − {ours:,}; from {theirs:,} ({lora_how}) it is "
            f"{saving.printed.like(Fraction(theirs - ours))}",
        ),
        Check(
            CLAIMS,
            gain.claim,
            gain.printed.text,
            "–",
            NOT_CHECKABLE,
            "Tables 1, 3 and 4 have no RoBERTa-large scores",
            gain.source,
        ),
    ]


def saving_finding() -> str:
    """What the claim of fewer parameters on RoBERTa-large rests on."""
    saving, lora = claims()["roberta_large_saving"].printed, claims()["roberta_large_lora"].printed
    ours = architecture.lora2(ROBERTA_LARGE, 1, INNER_RANK)
    theirs = architecture.lora(ROBERTA_LARGE, 8, ("q", "v"))
    return (
        f"LoRA² k=1 {saving} under LoRA on RoBERTa-large holds only because {lora} is so rounded: LoRA's {theirs:,} "
        f"less {ours:,} is {saving.like(Fraction(theirs - ours))}, and {saving} needs a LoRA of "
        f"{int(saving.range.low) + ours:,} to {int(saving.range.high) + ours:,} parameters"
    )
