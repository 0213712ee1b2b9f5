"""The paper's printed figures put to the test, without any training.

Averages and gaps are recomputed from the printed cells, accuracies from the official row counts, parameter counts from
the shapes of the encoders. A cell stands for all numbers that round to it, and verdicts allow for all of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

from lora2_bench.files.writing import write_text
from lora2_bench.report import architecture
from lora2_bench.report.architecture import BERT_LARGE, DEBERTA_V3_BASE, ROBERTA_LARGE
from lora2_bench.report.attainable import (
    MOST_RUNS,
    attainable_share,
    fewest_runs,
    nearest_answers,
    right_answers,
    right_answers_cut_off,
)
from lora2_bench.report.paper import (
    COLUMNS,
    METHODS,
    SOURCE,
    Claim,
    Column,
    Row,
    claims,
    dataset_sizes,
    table1,
    table2,
    table3,
    table4,
)
from lora2_bench.report.rounding import Printed, Range, decimal
from lora2_bench.tasks.spec import TASKS

CONSISTENT, INCONSISTENT, NOT_CHECKABLE = "consistent", "inconsistent", "not checkable"
ONE_RUN, IMPOSSIBLE = "one run", "impossible"
VERDICTS = {
    CONSISTENT: "numbers that round to the figures used give a number that rounds to the printed one",
    INCONSISTENT: "no such numbers do",
    NOT_CHECKABLE: "what is printed does not settle it",
    ONE_RUN: "an accuracy of one run on the official dev rows: n right answers of N round to it",
    "mean of m": f"no single run gives it; the mean of m runs does, m the smallest of 2 to {MOST_RUNS}",
    IMPOSSIBLE: f"no mean of 1 to {MOST_RUNS} runs on the official dev rows, rounded once, gives it; more runs, "
    "or runs rounded before the mean, still may",
}

# LoRA²'s inner rank. The paper does not print it; its parameter counts need it.
INNER_RANK = 8
# An accuracy tells one run from several only where one run can print few of all figures.
TELLING_SHARE = Fraction(1, 10)

AVERAGES = "Averages"
CLAIMS = "Claims of the text"
PARAMETERS = "Trainable parameters"
ACCURACIES = "Accuracies that a run can give"
SAME_RUN = "One run in two tables"
DATASETS = "Sizes of the data sets"
TIMES = "Seconds per step"


@dataclass(frozen=True)
class Line:
    """One check.

    Attributes:
        group: the heading it stands under.
        what: the figure.
        printed: as in the paper.
        recomputed: what it should be, or what gives it.
        verdict: one of `VERDICTS`, with a number for m.
        how: one sentence.
        source: where the printed figure stands.
    """

    group: str
    what: str
    printed: str
    recomputed: str
    verdict: str
    how: str
    source: str


@dataclass(frozen=True)
class Accuracy:
    """A printed accuracy: `runs` is the fewest whose mean rounds to it, None where no mean of up to five does."""

    row: Row
    column: Column
    printed: Printed
    runs: int | None
    share: Fraction

    @property
    def is_telling(self) -> bool:
        """Whether one run can print only few of all figures at this size."""
        return self.share < TELLING_SHARE


def audit() -> list[Line]:
    """Every check, group by group, in the order of the paper's tables."""
    return [
        *_averages(),
        *_claims(),
        *_parameters(),
        *_accuracy_lines(),
        *_same_run(),
        *_datasets(),
        *_times(),
    ]


def accuracies() -> list[Accuracy]:
    """Every printed accuracy, with the fewest runs that can give it."""
    return [
        Accuracy(row, column, printed, fewest_runs(printed, column.rows), attainable_share(printed.digits, column.rows))
        for row in _rows()
        for column, printed in ((COLUMNS[name], printed) for name, printed in row.scores.items())
        if column.metric == "accuracy"
    ]


def findings(lines: list[Line]) -> list[str]:
    """What a reader wants to know first: every inconsistency, then accuracies, pruned counts and the cost of a step."""
    found = [
        f"{line.what}: printed {line.printed}, recomputed {line.recomputed} ({line.how})"
        for line in lines
        if line.verdict == INCONSISTENT
    ]
    found += _findings_on_accuracies()
    pruned = [
        f"{line.what} {line.printed}" for line in lines if (line.group, line.verdict) == (PARAMETERS, NOT_CHECKABLE)
    ]
    found.append(f"Under the initial count, so perhaps counted after pruning: {'; '.join(pruned)}")
    ratios = [100 * (time.lora2.value / time.adalora.value - 1) for time in table2().values()]
    found.append(
        f"A step of LoRA² takes {decimal(min(ratios), 0)} to {decimal(max(ratios), 0)} % longer than one of AdaLoRA "
        f"({len(ratios)} tasks, Table 2)"
    )
    return found


def _findings_on_accuracies() -> list[str]:
    every = accuracies()
    telling = [one for one in every if one.is_telling]
    columns = ", ".join(dict.fromkeys(one.column.label for one in telling))

    def by_one_run(cells: list[Accuracy]) -> str:
        return f"{sum(one.runs == 1 for one in cells)} of {len(cells)}"

    in_table1 = {
        name: by_one_run([one for one in telling if (one.row.table, one.row.method) == ("Table 1", method)])
        for method, name in METHODS.items()
    }
    # The rows `all` of Tables 3 and 4 are the run of Table 1 again.
    ablations = [one for one in telling if one.row.variant not in ("", "all")]
    return [
        f"Accuracies of Table 1 on {columns} that one run can give: "
        + ", ".join(f"{name} {count}" for name, count in in_table1.items()),
        f"The same for the ablations of LoRA² in Tables 3 and 4: {by_one_run(ablations)}",
        "Accuracies of LoRA² that one run cannot give: "
        + _listed(one for one in every if one.row.method == "lora2" and one.runs != 1),
        f"Accuracies that no mean of 1 to {MOST_RUNS} runs can give: " + _listed(one for one in every if not one.runs),
    ]


def _listed(cells: Iterable[Accuracy]) -> str:
    return (
        "; ".join(f"{one.row.label}, {one.column.label} {one.printed} ({_verdict_of(one)})" for one in cells) or "none"
    )


def markdown(lines: list[Line]) -> str:
    """The audit as a page: what verdicts mean, the findings, then every line under its group."""
    count = {
        verdict: sum(line.verdict.startswith(verdict.removesuffix(" m")) for line in lines) for verdict in VERDICTS
    }
    text = ["# The paper, audited", ""]
    text += [f"{SOURCE}: its printed figures recomputed, without any training, from its other figures, GLUE's official"]
    text += [
        "row counts and the shapes of the encoders. Every printed cell stands for all numbers that round to it.",
        "",
    ]
    text += ["| verdict | lines | meaning |", "| --- | ---: | --- |"]
    text += [f"| {verdict} | {count[verdict]} | {meaning} |" for verdict, meaning in VERDICTS.items()]
    text += ["", "## Findings", "", *(f"- {finding}" for finding in findings(lines))]
    for group in dict.fromkeys(line.group for line in lines):
        text += ["", f"## {group}", "", "| what | printed | recomputed | verdict | how |"]
        text += ["| --- | ---: | ---: | --- | --- |"]
        text += [
            f"| {line.what} | {line.printed} | {line.recomputed} | {line.verdict} | {line.how} |"
            for line in lines
            if line.group == group
        ]
    return "\n".join(text) + "\n"


def write_audit(results: Path) -> list[Path]:
    """Write `results/audit/audit.md` and `audit.csv`; returns their paths. Raises OSError where they cannot be."""
    folder = results / "audit"
    folder.mkdir(parents=True, exist_ok=True)
    lines = audit()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(field.name for field in fields(Line))
    writer.writerows(astuple(line) for line in lines)
    page, cells = folder / "audit.md", folder / "audit.csv"
    write_text(page, markdown(lines))
    write_text(cells, table.getvalue())
    return [page, cells]


def _rows() -> list[Row]:
    return [*table1().values(), *table3().values(), *table4().values()]


def _verdict(printed: Printed, recomputed: Range) -> str:
    return CONSISTENT if printed.range.overlaps(recomputed) else INCONSISTENT


def _averages() -> list[Line]:
    lines = []
    for row in _rows():
        recomputed = row.mean_over_tasks()
        verdict = _verdict(row.average, recomputed)
        how = f"mean over {len(row.tasks)} tasks"
        if len(row.scores) > len(row.tasks):
            how += ", QQP and MNLI each by the mean of their two figures"
        if verdict == INCONSISTENT:
            how += f"; {_why_average(row)}"
        what = f"{row.table}, average of {row.label}"
        lines.append(
            Line(AVERAGES, what, row.average.text, row.average.like(recomputed.value), verdict, how, row.source)
        )
    return lines


def _why_average(row: Row) -> str:
    if row.average.range.overlaps(row.mean_over_columns()):
        return f"{row.average} is the mean over all {len(row.scores)} columns"
    missing = (row.average.value - row.mean_over_tasks().value) * len(row.tasks)
    return f"the cells would have to add up to {decimal(abs(missing), 2)} {'more' if missing > 0 else 'less'}"


def _claims() -> list[Line]:
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


def _claim(claim: Claim, recomputed: Range, how: str, shown: str | None = None) -> Line:
    printed = claim.printed
    return Line(
        CLAIMS,
        claim.claim,
        printed.text,
        shown or printed.like(recomputed.value),
        _verdict(printed, recomputed),
        how,
        claim.source,
    )


def _average_gap(claim: Claim, ours: Row, theirs: Row) -> Line:
    """The gap of two averages; where it is not the printed one, which other averages give that."""
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


def _trainable_share(claim: Claim) -> Line:
    adapter, whole = architecture.lora2(DEBERTA_V3_BASE, 8, INNER_RANK), architecture.full(DEBERTA_V3_BASE)
    return _claim(claim, Range.exact(Fraction(100 * adapter, whole)), f"{adapter:,} of {whole:,} parameters")


def _score_cost(claim: Claim) -> Line:
    """Each parameter of an adapter has one score; A and D are the large factors."""
    width = DEBERTA_V3_BASE.width
    of_a_map = Fraction(2 * width, 2 * width + 2 * INNER_RANK + INNER_RANK)
    of_all = Fraction(architecture.lora(DEBERTA_V3_BASE, 1), architecture.lora2(DEBERTA_V3_BASE, 1, INNER_RANK))
    how = (
        f"share of the two large factors in one {width}×{width} map with k = 1 and r = {INNER_RANK}; "
        f"over all maps of DeBERTaV3-base it is {decimal(100 * of_all, 2)}%"
    )
    return _claim(claim, Range.exact(100 * of_a_map), how, f"{decimal(100 * of_a_map, 2)}%")


def _roberta_large() -> list[Line]:
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
        Line(
            CLAIMS,
            gain.claim,
            gain.printed.text,
            "–",
            NOT_CHECKABLE,
            "Tables 1, 3 and 4 have no RoBERTa-large scores",
            gain.source,
        ),
    ]


def _parameters() -> list[Line]:
    lines = []
    for row in _rows():
        if row.params is None:
            continue
        count, how = _count(row)
        verdict = _verdict(row.params, Range.exact(count))
        if verdict == INCONSISTENT and row.method in ("adalora", "sora") and row.params.value < count:
            verdict = NOT_CHECKABLE
            under = decimal(100 * (1 - row.params.value / count), 0)
            how += f"; not the initial count but {under} % under it: a count after pruning would explain it"
        elif verdict == INCONSISTENT and row.params.cuts_off(count):
            how += f"; {row.params} is cut off, not rounded"
        what = f"{row.table}, parameters of {row.label}"
        lines.append(Line(PARAMETERS, what, row.params.text, f"{count:,}", verdict, how, row.source))
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


def _accuracy_lines() -> list[Line]:
    lines = []
    for one in accuracies():
        rows = one.column.rows
        what = f"{one.row.table}, {one.column.label} of {one.row.label}"
        recomputed = "none"
        if one.runs is not None:
            total = f"{rows}" if one.runs == 1 else f"({one.runs}·{rows})"
            recomputed = f"{right_answers(one.printed, rows, one.runs)}/{total}"
        lines.append(
            Line(ACCURACIES, what, one.printed.text, recomputed, _verdict_of(one), _how_accuracy(one), one.row.source)
        )
    for column in COLUMNS.values():
        if column.metric != "accuracy":
            how = f"{column.metric.replace('_', ' ')} is no share of the rows"
            source = f"{SOURCE}, Tables 1, 3 and 4"
            lines.append(Line(ACCURACIES, f"{column.label}, all figures", "–", "–", NOT_CHECKABLE, how, source))
    return lines


def _verdict_of(one: Accuracy) -> str:
    if one.runs is None:
        return IMPOSSIBLE
    return ONE_RUN if one.runs == 1 else f"mean of {one.runs}"


def _how_accuracy(one: Accuracy) -> str:
    rows, printed = one.column.rows, one.printed
    if one.runs == 1:
        if one.share == 1:
            return "any figure is attainable at this size"
        return f"one run on {rows} rows can print {decimal(100 * one.share, 0)} % of all figures"
    nearest = nearest_answers(printed, rows)
    how = f"the nearest of one run is {nearest}/{rows}, {printed.like(Fraction(100 * nearest, rows))}"
    cut_off = right_answers_cut_off(printed, rows)
    return how if cut_off is None else f"{how}; with digits cut off, not rounded, {cut_off}/{rows} gives it"


def _same_run() -> list[Line]:
    reference = table1()["K/R=1", "lora2", "k=1"]
    lines = []
    for row in (table3()["all"], table4()["all"]):
        for name, printed in row.scores.items():
            other = reference.scores[name]
            what = f"{row.table}, {COLUMNS[name].label} of {row.label}"
            verdict = _verdict(printed, other.range)
            lines.append(Line(SAME_RUN, what, printed.text, other.text, verdict, "the figure of Table 1", row.source))
    return lines


def _datasets() -> list[Line]:
    lines = []
    for size in dataset_sizes().values():
        wrong = []
        counts = []
        for split, printed in (("train", size.train), ("dev", size.dev), ("test", size.test)):
            count = sum(rows for name, rows in TASKS[size.task].rows.items() if name.partition("_")[0] == split)
            counts.append(f"{count:,}")
            if _verdict(printed, Range.exact(count)) == INCONSISTENT:
                wrong.append(f"{split} rounds to {printed.like(Fraction(count))}")
                wrong += [f"{printed} is cut off"] if printed.cuts_off(count) else []
        lines.append(
            Line(
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


def _times() -> list[Line]:
    return [
        Line(
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
