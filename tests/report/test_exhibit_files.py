"""The files of the paper's tables: LaTeX that can compile, Markdown with whole lines, and none left over."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lora2_bench.experiment.suites import suites
from lora2_bench.records.store import Store
from lora2_bench.report.tables.render import Sheet, Text, escape, latex
from lora2_bench.report.tables.write import write_tables
from tests.made_records import make_row_record
from tests.report.exhibit_records import exhibit_records

ROW_END = r"\\"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    for record in exhibit_records():
        Store(results).write(record)
    write_tables(results)
    return results / "tables"


def test_latex_is_ascii_and_balanced_with_as_many_places_as_columns(written: Path) -> None:
    paths = sorted(written.rglob("*.tex"))
    assert len(paths) > 5
    for path in paths:
        text = path.read_text(encoding="ascii")
        code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        plain = re.sub(r"\\[\\{}&%$#_]", "", code)
        assert plain.count("{") == plain.count("}")
        assert plain.count("$") % 2 == 0
        assert not set(plain) & set("%#~^_"), path
        assert "?" not in plain, "a sign that has no LaTeX form here"
        for environment in ("table*", "tabular"):
            assert code.count(rf"\begin{{{environment}}}") == code.count(rf"\end{{{environment}}}") > 0
        for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", code, re.DOTALL):
            lines = [line.replace(r"\&", "") for line in body.splitlines() if line.endswith(ROW_END)]
            assert len(lines) > 1
            assert {line.count("&") for line in lines} == {len(columns) - 1}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles_and_fits_the_page(written: Path, tmp_path: Path) -> None:
    bodies = [path.read_text(encoding="ascii") for path in sorted(written.rglob("*.tex"))]
    packages = r"\usepackage{booktabs,graphicx}"
    text = rf"\documentclass[twocolumn]{{article}}{packages}\begin{{document}}" + r"\clearpage ".join(bodies)
    (tmp_path / "all.tex").write_text(text + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_markdown_has_as_many_places_as_columns(written: Path) -> None:
    for path in written.rglob("*.md"):
        for block in path.read_text(encoding="utf-8").split("\n\n"):
            lines = [line for line in block.splitlines() if line.startswith("| ")]
            assert len({line.count(" |") for line in lines}) <= 1, path


def test_csv_has_a_line_per_row_column_and_protocol(written: Path) -> None:
    with (written / "deberta_v3_base-hub" / "table1.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 3 * 10 * 11
    one = next(
        line for line in lines if (line["row"], line["column"], line["protocol"]) == ("lora2_k1", "rte", "paper")
    )
    assert (one["mean"], one["n"], one["seeds"], one["printed"]) == ("89.0500", "4", "0 1 2 3", "89.53")
    assert float(one["difference"]) == pytest.approx(-0.48)
    assert one["verdict"] == "within noise"


def test_latex_specials_are_escaped() -> None:
    specials = "a_b & 5% $ # {x} ~ ^ \\"
    assert escape(specials) == r"a\_b \& 5\% \$ \# \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    assert escape("LoRA² ± − × † ‡ ≠ § ¶").isascii()
    assert "?" not in escape("LoRA² ± − × † ‡ ≠ § ¶")


def test_ranks_are_bold_and_underlined_and_a_bracket_opens_no_line() -> None:
    sheet = Sheet("t", ["a"], 1, [[Text("[x")], [Text("1.00", " (2)", 1)], [Text("1.00", "", 2)]])
    lines = [line for line in latex(sheet).splitlines() if line.endswith(ROW_END)]
    assert lines[1:] == [r"{}[x \\", r"\textbf{1.00} (2) \\", r"\underline{1.00} \\"]


def test_an_exhibit_whose_records_are_gone_takes_its_files_along(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = make_row_record("reg_cd", "mnli", 0)
    for made in (record, make_row_record("lora_r1", "rte", 0)):
        store.write(made)
    write_tables(tmp_path)
    place = tmp_path / "tables" / "deberta_v3_base-hub"
    assert (place / "table3.md").is_file()
    store.path(record.id).unlink()
    write_tables(tmp_path)
    assert sorted({path.stem for path in place.iterdir()}) == ["scores", "table1"]


def test_empty_results_name_every_suite_and_its_command(tmp_path: Path) -> None:
    (path,) = write_tables(tmp_path)
    for name, suite in suites().items():
        assert f"| {name} | 0 | {suite.cells} | `python -m lora2_bench -m suite={name}` |" in path.read_text()
