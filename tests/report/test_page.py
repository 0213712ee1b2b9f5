"""The report's page as HTML: whole, escaped, self-contained; what has no run is one line."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora2_bench.experiment.suites import suites
from lora2_bench.records.identity import id_of
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.report.page.gather import gather
from lora2_bench.report.page.markup import from_markdown
from lora2_bench.report.page.page import page, write_report
from lora2_bench.report.predictions import Correctness
from lora2_bench.report.statistics.significance import t_test
from tests.made_records import make_cell, make_record, make_row_record
from tests.report.exhibit_records import exhibit_records
from tests.report.made_results import made_results, measured
from tests.report.outline import Outline
from tests.report.test_tables import report

EVIL = "<script>window.evil = 1</script><!--<img src=x onerror=evil()>\"' &amp; \u2028 |"


def made(records: Iterable[Record], read: Any = lambda cell: None, **more: Any) -> str:
    return page(gather(records), 0, read, **more)


def data_of(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def cells_of(text: str) -> list[dict[str, Any]]:
    data = data_of(text, "cell-data")
    texts = {int(at): known for at, known in data["texts"].items()}
    columns = data["columns"]
    return [
        {
            name: texts[at][value] if at in texts else value
            for at, (name, value) in enumerate(zip(columns, row, strict=True))
        }
        for row in data["rows"]
    ]


def section(text: str, name: str) -> str:
    start = text.index(f'<section id="{name}"')
    return text[start : text.index("</section>", start)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for record in made_results():
        Store(folder).write(record)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def text(results: Path) -> str:
    return (results / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def of_paper() -> str:
    return made(exhibit_records())


def test_the_page_is_well_formed_with_every_section_and_headings_in_order(text: str) -> None:
    outline = Outline(text)
    assert outline.open == []
    assert [name for name, count in Counter(outline.ids).items() if count > 1] == []
    order = ["answer", "leaderboard", "tasks", "compare", "curves", "cost", "studies", "paper", "cells", "run"]
    assert [name for name in outline.ids if name in order] == order
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(outline.headings, outline.headings[1:], strict=False))
    assert ("html", {"lang": "en"}) in outline.elements
    targets = {
        value[1:] for _, attributes in outline.elements if (value := attributes.get("href") or "").startswith("#")
    }
    assert targets <= set(outline.ids)


def test_the_page_loads_nothing_and_its_policy_knows_its_script_and_style_by_hash(text: str) -> None:
    loading = {"src", "srcset", "data", "action", "poster", "background", "xlink:href"}
    for tag, attributes in Outline(text).elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        assert "style" not in attributes, "the policy forbids it"
        assert not loading & set(attributes), tag
    assert not re.search(r"@import|url\((?!#)", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1] and "unsafe" not in policy[1]
    for tag in ("script", "style"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy[1].replace("&#43;", "+")


def test_question_answer_and_figure_come_first(of_paper: str) -> None:
    first = of_paper[of_paper.index("<header>") : of_paper.index("<nav")]
    assert "Does LoRA² score as its paper says" in first
    assert first.count('class="answer"') == first.count('class="first"')
    block = first[first.index('data-place="deberta_v3_base-hub" data-protocol="last"') :]
    assert "AdaLoRA r=8 has the highest average" in block
    assert "printed figures" in block and "were not reproduced" in block
    labels = re.findall(r'<g class="mark" data-label="([^"]*)" tabindex="0" role="img" aria-label="([^"]*)"', block)
    assert ("lora2 k=8", next(said for label, said in labels if label == "lora2 k=8")) in labels
    assert all(
        re.search(r"mean \d+\.\d\d, (95 % interval|spread unknown).*n = \d.*parameters", said) for _, said in labels
    )


def test_the_leaderboard_has_letters_and_says_what_a_method_lacks(of_paper: str) -> None:
    board = section(of_paper, "leaderboard")
    rows = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td><td[^>]*>([^<]*)</td><td>([^<]*)</td>", board)
    ours = next(row for row in rows if row[0] == "LoRA² k=8")
    assert ours[1] and re.fullmatch(r"\d+\.\d\d", ours[2]) and " to " in ours[3]
    lacking = next(row for row in rows if row[0] == "LoRA r=8")
    assert lacking[1:3] == ("", "") and lacking[3].startswith("no run on ")


def test_an_exhibit_without_a_counting_run_is_one_line_with_its_command(text: str, of_paper: str) -> None:
    paper = section(text, "paper")
    paper = paper[: paper.index("The paper, audited")]
    assert "<table" not in paper and "–" not in paper
    for name in ("table1", "table2", "table3", "table4", "roberta_large", "vera_table2"):
        assert re.search(rf"no run counts yet, <code>[^<]*suite={name} model={suites()[name].model}", paper), name
    assert "suite=table1" not in re.sub(r"<pre>.*?</pre>", "", section(of_paper, "paper"), flags=re.DOTALL)
    assert "python -m lora2_bench.tune" in section(text, "studies")


def test_the_papers_figures_have_verdicts_and_reasons(of_paper: str) -> None:
    paper = section(of_paper, "paper")
    assert re.search(
        r'class="v-not-reproduced" title="[^"]* lies outside [^"]*">✗ 88\.00 \([\d.]+, [+−][\d.]+\)</td>', paper
    )
    assert "No run counts of" in paper
    assert "89.68" in paper
    assert "<summary>Every check</summary>" in paper


def test_counts_machines_and_cells_are_there(text: str, results: Path) -> None:
    assert "22 cells: 21 finished, 1 failed, 0 unreadable." in text
    assert "<td>Made CPU, 1 thread</td>" in text
    cells = cells_of(text)
    assert len(cells) == len(made_results())
    assert "python -m lora2_bench task=rte method=lora2 seed=1" in {cell["command"] for cell in cells}
    assert {(cell["protocol"], cell["status"], cell["looks at dev"]) for cell in cells} == {
        ("paper", "done", 3),
        ("paper", "failed", None),
        ("clean", "done", None),
    }
    assert Counter(cell["counts"].split(":")[0] for cell in cells) == {"yes": 13, "no": 9}
    assert "elsewhere" not in text
    assert str(results) not in text


def test_two_methods_have_their_scores_p_values_and_examples() -> None:
    records = [make_row_record(row, "rte", seed, 80 + seed**2 / (at + 2)) for at, row in enumerate(("full", "lora_r1"))
               for seed in range(4)]  # fmt: skip
    labels = np.array([0, 1, 1] * 5)
    right = {record.id: labels == (at % 2) for at, record in enumerate(records)}

    def read(cell: str) -> Correctness:
        return Correctness(labels, {"best": right[cell], "last": ~right[cell]})

    found = next(one for one in data_of(made(records, read), "versus-data") if one["protocol"] == "paper")
    (task,) = found["tasks"]
    assert found["names"] == ["full fine-tuning", "LoRA r=1"]
    assert task["scores"][0] == pytest.approx([80 + seed**2 / 2 for seed in range(4)], abs=0.001)
    expected = t_test([seed**2 / 2 - seed**2 / 3 for seed in range(4)])
    assert task["p"] == found["holm"] == [pytest.approx(expected, rel=0.01)]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(task["right"]["0"]["0"]), np.uint8), count=task["rows"])
    assert bits.astype(bool).tolist() == right[records[0].id].tolist()
    text = made(records, read)
    assert re.search(r"majority class</td><td[^>]*>66\.67 \(dev\)</td>", text)


def test_a_task_of_one_s_own_has_a_place_of_its_own() -> None:
    definition = {"columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy"], "main": ["accuracy"],
                  "rows": {"train": 8, "dev": 4}, "sha256": {"train": "0" * 64, "dev": "1" * 64}}  # fmt: skip
    made_records = []
    for method in ("full", "lora"):
        values = make_record(make_cell("rte", method, source="local")).to_dict()
        values["cell"].update(task="weather", definition=definition)
        values["result"]["data"]["labels"] = {"train": [5, 3], "dev": [1, 3]}
        made_records.append(Record.from_dict({**values, "id": id_of(values["cell"])}))
    text = made([*made_records, make_record(make_cell())])
    block = re.search(r'<div data-place="minilm-own-weather" data-protocol="last">.*?</div>', text, re.DOTALL)
    assert block is not None
    assert "minilm, own-weather data" in text and "These are not GLUE scores." in section(text, "leaderboard")
    assert re.search(r"majority class</td><td[^>]*>25\.00</td>", text)


def test_whatever_a_record_says_is_text(tmp_path: Path) -> None:
    record = measured("rte", "lora2", 0, 0.7)
    hardware, code = {**record.run["hardware"], "processor": EVIL}, {"sha": EVIL, "dirty": True}
    run = {**record.run, "hardware": hardware, "command": [EVIL], "versions": {EVIL: EVIL}, "code": code}
    evil = dataclasses.replace(record, label=f"lora2 {EVIL}", run=run)
    for one in (evil, make_record(make_cell("cola"))):
        Store(tmp_path).write(one)
    (tmp_path / "studies" / "x").mkdir(parents=True)
    (tmp_path / "studies" / "x" / "FINDINGS.md").write_text(
        f"# {EVIL}\n\n![picture](http://x/y.png) [js](javascript:evil())\n\n{EVIL}\n"
    )
    (path,) = write_report(tmp_path)
    outline = Outline(path.read_text())
    assert [tag for tag, _ in outline.elements].count("script") == 3
    assert "img" not in {tag for tag, _ in outline.elements}
    assert not [attributes for _, attributes in outline.elements if any(name.startswith("on") for name in attributes)]
    assert "javascript:" not in {(attributes.get("href") or "")[:11] for _, attributes in outline.elements}
    assert f"lora2 {EVIL}" in [cell["method"] for cell in cells_of(path.read_text())]
    assert f"lora2 {EVIL}" in [attributes.get("data-label") for tag, attributes in outline.elements if tag == "g"]


def test_no_value_of_a_record_ends_the_script_element_of_the_cells() -> None:
    text = made([dataclasses.replace(measured("rte", "lora2", 0, 0.7), label=EVIL)])
    for name in ("cell-data", "versus-data"):
        start = text.index(f'id="{name}">') + len(f'id="{name}">')
        assert not set("<>&") & set(text[start : text.index("</script>", start)])
    assert [cell["method"] for cell in cells_of(text)] == [EVIL]


def test_values_of_a_record_are_escaped_in_tables() -> None:
    record = measured("rte", "lora2", 0, 0.7)
    record.run["hardware"] = {"gpu": '<i>&"'}
    text = made([record])
    assert "<td>&lt;i&gt;&amp;&#34;</td>" in text
    assert "<i>" not in text


def test_findings_and_figures_of_a_study_stand_on_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "mine" / "figures"
    folder.mkdir(parents=True)
    (folder.parent / "FINDINGS.md").write_text("# A study\n\nlr matters\n")
    (folder / "lr.svg").write_text('<svg viewBox="0 0 9 9"><path style="fill: none; stroke: #123456" d="M0 0"/></svg>')
    text = write_report(tmp_path)[0].read_text()
    assert "<h3>A study</h3>" in text and "lr matters" in text
    assert '<path d="M0 0" fill="none" stroke="#123456"/>' in text
    assert "python -m lora2_bench.tune" not in text


def test_markdown_keeps_plain_tags_and_no_others() -> None:
    made_of = from_markdown('a <u>second</u> <u onclick="x()">no</u> <b>no</b>', 3)
    assert "<u>second</u>" in made_of
    assert made_of.count("<u") == 1
    assert "&lt;b&gt;no&lt;/b&gt;" in made_of


def test_headings_of_markdown_are_shifted_without_gaps() -> None:
    assert Outline(from_markdown("## a\n\n#### b\n\n## c\n", 3)).headings == [3, 4, 3]


def test_the_same_records_give_the_same_bytes(results: Path, text: str) -> None:
    write_report(results)
    assert (results / "report" / "index.html").read_text() == text


def test_unreadable_records_are_counted(tmp_path: Path) -> None:
    Store(tmp_path).write(measured("rte", "lora2", 0, 0.7))
    broken = Store(tmp_path).path("aa")
    broken.parent.mkdir()
    broken.write_text("{")
    (path,) = write_report(tmp_path)
    assert "2 cells: 1 finished, 0 failed, 1 unreadable." in path.read_text()


def test_an_empty_folder_gives_a_page_that_says_what_to_run(tmp_path: Path) -> None:
    (path,) = write_report(tmp_path)
    outline = Outline(path.read_text())
    assert "No run counts yet" in path.read_text()
    assert "python -m lora2_bench method=lora2 task=rte" in path.read_text()
    assert {"answer", "paper", "studies"} <= set(outline.ids)
    assert not {"leaderboard", "tasks", "compare", "curves", "cost", "cells", "run"} & set(outline.ids)


def test_runs_of_which_none_counts_have_their_cells_and_no_leaderboard() -> None:
    text = made([measured("rte", "lora", 0, 0.3, max_train=64, cut=("data.max_train=64",))])
    assert "No run counts yet" in text
    assert {"cells", "run"} <= set(Outline(text).ids) and "leaderboard" not in Outline(text).ids
    assert [cell["counts"] for cell in cells_of(text)] == ["no: data.max_train=64"]


@pytest.mark.slow
def test_the_commands_write_figures_and_report(tmp_path: Path) -> None:
    Store(tmp_path).write(measured("rte", "lora2", 0, 0.7))
    for what, last in (("figures", "figures/minilm-mini/seconds-last.png"), ("report", "report/index.html")):
        done = report(what, "--results", str(tmp_path))
        assert done.returncode == 0, done.stderr
        *_, written, heavy = done.stdout.splitlines()
        assert written == f"written: {tmp_path / last}"
        assert heavy == "HEAVY"
