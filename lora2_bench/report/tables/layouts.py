"""The paper's tables of scores as layouts: rows in order, columns, and the printed figure of each place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from lora2_bench.experiment.suites import RowSpec, Suite, rows, suites
from lora2_bench.paper.architecture import ALL_MAPS
from lora2_bench.paper.printed import Printed, Range
from lora2_bench.paper.tables import COLUMNS, METHODS, Column, Row, released, table1, table3, table4, vera_table2

AVERAGE = "average"
TERMS = ("uv", "UV", "PQ")


@dataclass(frozen=True)
class Line:
    """One row of an exhibit.

    Attributes:
        spec: the cells behind it.
        group: what is ranked together: `full`, `K/R=1`, `K/R=8`, or the exhibit's name.
        printed: the paper's row; None where it prints none.
    """

    spec: RowSpec
    group: str
    printed: Row | None

    @property
    def label(self) -> str:
        """For readers, as `LoRA² k=1 (uv)`."""
        if self.printed is not None:
            return self.printed.label
        size = f" {self.spec.size_name}={self.spec.size}" if self.spec.size_name else ""
        maps = _maps(self.spec)
        return METHODS[self.spec.method] + size + (f" ({maps})" if maps not in ("", "all") else "")

    @cached_property
    def average_by_rule(self) -> Range | None:
        """The average of the printed cells by the tables' rule, where the printed average is another number."""
        if self.printed is None or self.printed.printed_average is None:
            return None
        if self.printed.average.range.overlaps(by_rule := self.printed.mean_over_tasks()):
            return None
        return by_rule

    def figure(self, column: str) -> Printed | None:
        """The printed figure of a column, `average` included."""
        if self.printed is None:
            return None
        return self.printed.printed_average if column == AVERAGE else self.printed.scores.get(column)


@dataclass(frozen=True)
class Exhibit:
    """One table of scores.

    Attributes:
        suite: its cells.
        title: as `Table 1`.
        subject: what it shows.
        lines: its rows.
        columns: of `paper.COLUMNS`; the average follows them.
    """

    suite: Suite
    title: str
    subject: str
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]

    @property
    def name(self) -> str:
        """The suite's name, and that of its files."""
        return self.suite.name

    def columns_of(self, task: str) -> list[str]:
        """Names of a task's columns here."""
        return [column.name for column in self.columns if column.task == task]


@cache
def exhibits() -> dict[str, Exhibit]:
    """Every table of scores by its suite's name."""
    of_size = {(row.method, row.size): row for row in table1().values()}
    ten = tuple(COLUMNS)

    def first(spec: RowSpec) -> Row | None:
        return of_size.get((spec.method, spec.size))

    made = (
        _exhibit("table1", "Table 1", "GLUE dev scores", ten, {s: first(rows()[s]) for s in suites()["table1"].rows}),
        _exhibit(
            "table3",
            "Table 3",
            "LoRA² k=1 by the terms of its regulariser",
            ("mrpc", "stsb", "mnli_mm", "rte"),
            {name: table3()[_terms(rows()[name])] for name in suites()["table3"].rows},
        ),
        _exhibit(
            "table4",
            "Table 4",
            "LoRA² k=1 by the maps it is applied to",
            ("cola", "mrpc", "stsb", "rte"),
            {name: table4()[_maps(rows()[name])] for name in suites()["table4"].rows},
        ),
        _exhibit(
            "roberta_large",
            "Section 4.2",
            "LoRA² and LoRA on RoBERTa-large",
            ten,
            dict.fromkeys(suites()["roberta_large"].rows),
        ),
        *(
            _exhibit(
                name,
                "VeRA's Table 2",
                f"VeRA and LoRA r=8 on {backbone} (arXiv 2310.11454; LoRA on MRPC, RTE, STS-B from MNLI)",
                ("cola", "sst2", "mrpc", "stsb", "qnli", "rte"),
                {row: vera_table2().get((name, rows()[row].method)) for row in suites()[name].rows},
            )
            for name, backbone in (("vera_table2", "RoBERTa-base"), ("vera_table2_large", "RoBERTa-large"))
        ),
        _exhibit(
            "lora_table2",
            "LoRA's Table 2",
            "LoRA r=8 on RoBERTa-base (arXiv 2106.09685; MRPC, RTE, STS-B from MNLI)",
            ("cola", "sst2", "mrpc", "qqp_acc", "qqp_f1", "stsb", "qnli", "rte"),
            {"lora_r8_qv": released()["lora_table2", "lora"]},
        ),
        _exhibit(
            "ptuning_v2_rte",
            "P-Tuning v2's RTE",
            "P-Tuning v2 on RoBERTa-large (arXiv 2110.07602; its released script, one seed)",
            ("rte",),
            {"ptuning_v2_n128": released()["ptuning_v2_rte", "ptuning_v2"]},
        ),
    )
    return {exhibit.name: exhibit for exhibit in made}


def _exhibit(name: str, title: str, subject: str, columns: tuple[str, ...], printed: dict[str, Row | None]) -> Exhibit:
    def group(row: Row | None) -> str:
        return row.group if row is not None and name == "table1" else name

    lines = tuple(Line(rows()[row], group(figure), figure) for row, figure in printed.items())
    return Exhibit(suites()[name], title, subject, lines, tuple(COLUMNS[column] for column in columns))


def _terms(spec: RowSpec) -> str:
    """The regulariser's terms as Table 3 writes them: `uv&UV`, `all`."""
    chosen = spec.settings["reg.on"]
    return "all" if set(chosen) == set(TERMS) else "&".join(term for term in TERMS if term in chosen)


def _maps(spec: RowSpec) -> str:
    """The adapted maps as Table 4 writes them: `Q,K,V`, `all`; empty for a method without any."""
    chosen = spec.settings.get("targets", ())
    return "all" if set(chosen) == set(ALL_MAPS) else ",".join(name.upper() for name in chosen)
