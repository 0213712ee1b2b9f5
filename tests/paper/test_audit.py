"""The audit of the paper: what it finds, and the page it writes, byte by byte.

After a wanted change, `python -m tests.paper.test_audit` writes the golden page anew: read the diff.
"""

from __future__ import annotations

import csv
import random
import re
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy
import pytest
import scipy.stats

from lora2_bench.paper import architecture
from lora2_bench.paper import tables as paper
from lora2_bench.paper.architecture import DEBERTA_V3_BASE, ROBERTA_LARGE
from lora2_bench.paper.attainable import attainable_share
from lora2_bench.paper.audit import half_dev
from lora2_bench.paper.audit.accuracies import accuracies
from lora2_bench.paper.audit.checks import VERDICTS, Check
from lora2_bench.paper.audit.page import audit, findings, markdown, write_audit
from lora2_bench.paper.printed import Printed
from lora2_bench.tasks.spec import TASKS
from tests.report.test_tables import report

GOLDEN = Path(__file__).resolve().parent / "golden_audit.md"
LINES = {(line.group, line.what): line for line in audit()}


def line_on(what: str) -> Check:
    """The one line on `what`."""
    (line,) = (line for (group, name), line in LINES.items() if name == what and group != "One run in two tables")
    return line


def how(what: str) -> str:
    return line_on(what).how


def test_what_is_inconsistent() -> None:
    found = {line.what: (line.printed, line.recomputed) for line in audit() if line.verdict == "inconsistent"}
    assert found == {
        "Table 1, average of LoRA² k=8": ("89.68", "89.43"),
        "Table 4, average of LoRA² k=1 (Q,K)": ("84.53", "84.48"),
        "LoRA² k=1 above LoRA r=1 on average": ("2.03", "1.83"),
        "LoRA² k=1 above SoRA r=1 on average": ("1.41", "1.21"),
        "LoRA² k=8 above LoRA r=8 on average": ("1.29", "1.05"),
        "LoRA² k=8 above SoRA r=8 on average": ("0.31", "0.07"),
        "parameters of RoBERTa-large": ("335M", "355,361,794"),
        "compression rate of LoRA² k=1 against full fine-tuning of RoBERTa-large": ("99.97%", "99.87%"),
        "Table 1, parameters of LoRA² k=8": ("1.33M", "1,336,896"),
        "rows of CoLA, train / dev / test": ("8.5k / 1043 / 1063", "8,551 / 1,043 / 1,063"),
    }


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("Table 1, average of LoRA² k=8", "89.68 is the mean over all 10 columns"),
        ("Table 4, average of LoRA² k=1 (Q,K)", "the cells would have to add up to 0.22 more"),
        ("LoRA² k=1 above LoRA r=1 on average", "2.03 fits 89.26 − 87.23, LoRA²'s average over all 10 columns"),
        ("LoRA² k=1 above SoRA r=1 on average", "1.41 fits 89.26 − 87.85, LoRA²'s average over all 10 columns"),
        ("LoRA² k=8 above LoRA r=8 on average", "1.29 fits 89.68 − 88.38, LoRA²'s average over all 10 columns"),
        ("LoRA² k=8 above SoRA r=8 on average", "0.31 fits 89.68 − 89.36, LoRA²'s average over all 10 columns"),
        ("parameters of RoBERTa-large", "BERT-large has 335,143,938"),
        (
            "compression rate of LoRA² k=1 against full fine-tuning of RoBERTa-large",
            "1 − 445,824 / 335M; 99.97% would leave 100,500 parameters",
        ),
        ("Table 1, parameters of LoRA² k=8", "1.33M is cut off, not rounded"),
        ("rows of CoLA, train / dev / test", "train rounds to 8.6k; 8.5k is cut off"),
    ],
)
def test_an_inconsistent_figure_says_what_would_explain_it(what: str, reason: str) -> None:
    assert reason in how(what)


def test_all_other_averages_hold() -> None:
    averages = [line for line in audit() if line.group == "Averages"]
    assert len(averages) == 10 + 5 + 4
    assert sum(line.verdict == "consistent" for line in averages) == 17
    assert all(line.printed == line.recomputed for line in averages if line.verdict == "consistent")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("LoRA² k=1 above AdaLoRA r=2 on RTE", ("2.17", "2.17", "consistent")),
        (
            "trainable parameters of LoRA² k=8 as a share of full fine-tuning (DeBERTaV3-base)",
            ("0.72%", "0.72%", "consistent"),
        ),
        ("sensitivity scores saved by leaving the large factors out", ("98.5%", "98.46%", "consistent")),
        ("trainable parameters of LoRA² k=1 on RoBERTa-large", ("0.4M", "445,824", "consistent")),
        ("parameters of LoRA² k=1 under those of LoRA on RoBERTa-large", ("0.37M", "0.35M", "consistent")),
        ("LoRA² k=1 above LoRA on average on RoBERTa-large", ("2%", "–", "not checkable")),
        ("Table 1, parameters of AdaLoRA r=2", ("0.32M", "331,920", "not checkable")),
        ("Table 1, parameters of AdaLoRA r=8", ("1.27M", "1,327,680", "not checkable")),
        ("Table 1, parameters of SoRA r=1", ("0.12M", "165,960", "not checkable")),
        ("Table 1, parameters of BitFit", ("0.1M", "102,912", "consistent")),
        ("Table 1, MRPC of LoRA² k=1", ("90.93", "371/408", "one run")),
        ("Table 1, RTE of LoRA² k=1", ("89.53", "248/277", "one run")),
        ("Table 1, RTE of LoRA r=8", ("85.32", "709/(3·277)", "mean of 3")),
        ("Table 1, RTE of SoRA r=1", ("83.02", "none", "impossible")),
        ("Table 2, LoRA² against AdaLoRA on STS-B", ("1.23 s, 1.05 s", "17 % longer", "not checkable")),
    ],
)
def test_single_lines(what: str, expected: tuple[str, str, str]) -> None:
    line = line_on(what)
    assert (line.printed, line.recomputed, line.verdict) == expected


def test_verdicts_follow_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(paper.table4())
    row = rows["Q,K"]
    rows["Q,K"] = replace(row, scores={**row.scores, "cola": Printed("68.88"), "rte": Printed("88.10")})
    monkeypatch.setattr("lora2_bench.paper.audit.checks.table4", lambda: rows)
    lines = {line.what: (line.recomputed, line.verdict) for line in audit()}
    assert lines["Table 4, average of LoRA² k=1 (Q,K)"] == ("84.53", "consistent")
    assert lines["Table 4, RTE of LoRA² k=1 (Q,K)"] == ("none", "impossible")


def test_a_pruned_count_is_explained_not_condemned() -> None:
    reason = "not the initial count but 4 % under it: a count after pruning would explain it"
    assert reason in how("Table 1, parameters of AdaLoRA r=2")
    assert reason in how("Table 1, parameters of AdaLoRA r=8")


def test_where_a_figure_is_attainable_anyway_the_line_says_so() -> None:
    assert how("Table 1, QQP accuracy of LoRA² k=1") == "any figure is attainable at this size"
    assert how("Table 1, MNLI matched of LoRA² k=1") == "one run on 9815 rows can print 98 % of all figures"


def test_lora2_fits_single_runs_on_the_small_sets_and_the_baselines_do_not() -> None:
    counts: dict[str, list[int]] = {}
    for one in accuracies():
        if one.is_informative and one.row.table == "Table 1":
            count = counts.setdefault(one.row.method, [0, 0])
            count[0] += one.runs == 1
            count[1] += 1
    assert counts == {
        "full": [2, 3],
        "bitfit": [1, 3],
        "adalora": [4, 5],
        "lora": [3, 6],
        "sora": [2, 6],
        "lora2": [6, 6],
    }
    beyond = [(one.row.label, one.column.name) for one in accuracies() if one.row.method == "lora2" and one.runs != 1]
    assert beyond == [("LoRA² k=8", "qnli")]


@pytest.mark.parametrize(
    ("task", "methods", "expected"),
    [
        ("rte", half_dev.SHARED, (5, 0, 6)),
        ("rte", half_dev.OTHERS, (0, 4, 4)),
        ("mrpc", half_dev.SHARED, (5, 4, 6)),
        ("mrpc", half_dev.OTHERS, (1, 4, 4)),
        ("sst2", half_dev.SHARED, (4, 4, 6)),
        ("sst2", half_dev.OTHERS, (2, 3, 4)),
    ],
)
def test_five_runs_on_half_of_dev_fit_where_one_run_on_all_does_not(
    task: str, methods: tuple[str, ...], expected: tuple[int, int, int]
) -> None:
    printed = [row.scores[task] for row in paper.table1().values() if row.method in methods]
    rows = TASKS[task].rows["dev"]

    def fitting(total: int) -> int:  # by brute force: every number of right answers, printed with the figure's digits
        return sum(any(abs(100 * n / total - one.value) <= one.unit / 2 for n in range(total + 1)) for one in printed)

    found = half_dev.fits(task, methods)
    assert (found.half, found.whole, found.figures) == expected
    assert (fitting(5 * ((rows + 1) // 2)), fitting(rows), len(printed)) == expected


def test_the_chance_of_chance_is_the_binomial_one() -> None:
    generator = random.Random(0)
    share = Fraction(sum(_fits(generator.randrange(10_001), 695) for _ in range(20_000)), 20_000)
    assert float(share) == pytest.approx(float(attainable_share(2, 695)), abs=0.006)
    found = half_dev.chance_of_at_least(5, 6, attainable_share(2, 695))
    assert float(found) == pytest.approx(float(scipy.stats.binom.sf(4, 6, float(attainable_share(2, 695)))))
    (told,) = (line for line in findings(audit()) if line.startswith("The chance of that being chance"))
    assert "5 or more of 6 do with a chance of 9e-06 (RTE)" in told and "6e-05 (MRPC)" in told
    assert "none of 6 with a chance of 0.84" in told


def _fits(figure: int, total: int) -> bool:
    """Whether a figure in hundredths of a percent is some n / total, rounded."""
    return any(abs(Fraction(10_000 * n, total) - figure) <= Fraction(1, 2) for n in _near(figure, total))


def _near(figure: int, total: int) -> range:
    return range(figure * total // 10_000, figure * total // 10_000 + 2)


def test_the_pairs_that_a_spread_needs_find_it_in_simulated_runs() -> None:
    rows, low, high = 277, 0.8881, 0.8953
    pairs = half_dev.pairs_needed(Fraction(72, 10_000), Fraction(8953, 10_000), rows)
    assert pairs == 102
    generator = numpy.random.default_rng(0)
    differences = (generator.binomial(rows, high, (4000, pairs)) - generator.binomial(rows, low, (4000, pairs))) / rows
    found = scipy.stats.ttest_1samp(differences, 0, axis=1)
    assert numpy.mean((found.pvalue <= 0.05) & (found.statistic > 0)) == pytest.approx(0.8, abs=0.03)


def test_the_claimed_saving_rests_on_rounding() -> None:
    (told,) = (line for line in findings(audit()) if line.startswith("LoRA² k=1 0.37M under LoRA"))
    assert "786,432 less 445,824 is 0.34M, and 0.37M needs a LoRA of 810,824 to 820,824 parameters" in told


def test_the_findings_come_first_and_name_every_inconsistency() -> None:
    lines = audit()
    found = findings(lines)
    wrong = [line for line in lines if line.verdict == "inconsistent"]
    for line, finding in zip(wrong, found, strict=False):
        assert finding.startswith(f"{line.what}: printed {line.printed}, recomputed {line.recomputed}")
    assert found[len(wrong)].startswith("Likely, Table 1 sets means over 5 runs on half of dev")
    assert "LoRA² 6 of 6" in found[len(wrong) + 2]
    assert found[-1] == "A step of LoRA² takes 13 to 17 % longer than one of AdaLoRA (7 tasks, Table 2)"


def test_every_verdict_is_defined_and_every_line_is_whole() -> None:
    for line in audit():
        assert re.sub(r"\d+", "m", line.verdict) in VERDICTS
        assert all((line.what, line.printed, line.recomputed, line.how))
        assert line.source.startswith("LoRA², arXiv 2408.06854, ")
        assert "|" not in "".join((line.what, line.printed, line.recomputed, line.how))
    assert len(LINES) == len(audit())


def test_parameter_counts_from_the_shapes() -> None:
    assert architecture.lora2(DEBERTA_V3_BASE, 1, 8) == 167_616
    assert architecture.lora2(DEBERTA_V3_BASE, 8, 8) == 1_336_896
    assert architecture.lora2(DEBERTA_V3_BASE, 1, 8, ("q", "k")) == 37_440
    assert architecture.lora2(DEBERTA_V3_BASE, 1, 8, ("q", "k", "v")) == 56_160
    assert architecture.lora2(ROBERTA_LARGE, 1, 8) == 445_824
    assert architecture.lora(DEBERTA_V3_BASE, 1) == 165_888
    assert architecture.lora(DEBERTA_V3_BASE, 8) == 1_327_104
    assert architecture.full(DEBERTA_V3_BASE) == 184_423_682


def test_the_page_is_the_golden_one(tmp_path: Path) -> None:
    page, cells = write_audit(tmp_path)
    assert page.read_bytes().decode() == GOLDEN.read_bytes().decode()
    assert page.read_text() == markdown(audit())
    with cells.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["what"], row["verdict"]) for row in rows] == [(line.what, line.verdict) for line in audit()]


def test_the_page_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    for path in write_audit(tmp_path):
        text = path.read_text()
        assert str(tmp_path) not in text
        assert str(Path(__file__).resolve().parents[2]) not in text
        assert str(Path.home()) not in text


def test_the_command_prints_the_page_and_loads_nothing_heavy(tmp_path: Path) -> None:
    done = report("audit", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith(GOLDEN.read_text())
    *_, page, cells, heavy = done.stdout.splitlines()
    assert (page, cells, heavy) == (
        f"written: {tmp_path}/audit/audit.md",
        f"written: {tmp_path}/audit/audit.csv",
        "HEAVY",
    )
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == ["audit.csv", "audit.md"]


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("")
    done = report("audit", "--results", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/audit cannot be written (File exists)\n"


def test_without_a_word_the_command_makes_tables(tmp_path: Path) -> None:
    done = report("--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_bytes(write_audit(Path(folder))[0].read_bytes())
