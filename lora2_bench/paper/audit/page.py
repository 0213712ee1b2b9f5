"""The audit's findings as a page and as CSV files."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, fields
from pathlib import Path

from lora2_bench.files.writing import write_text
from lora2_bench.paper.audit.accuracies import accuracy_findings, check_accuracies
from lora2_bench.paper.audit.averages import check_averages, check_same_run
from lora2_bench.paper.audit.checks import INCONSISTENT, NOT_CHECKABLE, PARAMETERS, VERDICTS, Check
from lora2_bench.paper.audit.claims import check_claims, saving_finding
from lora2_bench.paper.audit.half_dev import half_dev_findings, spread_finding
from lora2_bench.paper.audit.parameters import check_parameters
from lora2_bench.paper.audit.sizes_and_times import check_dataset_sizes, check_step_times
from lora2_bench.paper.printed import decimal
from lora2_bench.paper.tables import SOURCE, table2


def audit() -> list[Check]:
    """Every check, group by group."""
    return [
        *check_averages(),
        *check_claims(),
        *check_parameters(),
        *check_accuracies(),
        *check_same_run(),
        *check_dataset_sizes(),
        *check_step_times(),
    ]


def findings(lines: list[Check]) -> list[str]:
    """What a reader wants to know first: every inconsistency, then accuracies, counts and the cost of a step."""
    found = [
        f"{line.what}: printed {line.printed}, recomputed {line.recomputed} ({line.how})"
        for line in lines
        if line.verdict == INCONSISTENT
    ]
    found += [*half_dev_findings(), *accuracy_findings(), spread_finding(), saving_finding()]
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


def markdown(lines: list[Check]) -> str:
    """The audit as Markdown: what the verdicts mean, the findings, then every check below the heading of its group."""
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
    writer.writerow(field.name for field in fields(Check))
    writer.writerows(astuple(line) for line in lines)
    page, cells = folder / "audit.md", folder / "audit.csv"
    write_text(page, markdown(lines))
    write_text(cells, table.getvalue())
    return [page, cells]
