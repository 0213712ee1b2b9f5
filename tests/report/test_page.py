"""The report's page: whole, escaped, self-contained, and at work in a browser where there is one."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2.utils import htmlsafe_json_dumps

from lora2_bench.records.store import Store
from lora2_bench.report.figures.chart import Plot
from lora2_bench.report.figures.files import write_figures
from lora2_bench.report.page.markup import from_markdown
from lora2_bench.report.page.page import DRAWN_AT_ONCE, exhibits, page, write_report
from lora2_bench.report.selection import select
from tests.made_records import make_cell, make_record
from tests.report.made_results import made_results, measured
from tests.report.test_tables import report

EVIL = "<script>window.evil = 1</script><!--<img src=x onerror=evil()>\"' &amp; \u2028 |"
CHROMIUM = shutil.which("chromium")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path: the page is not opened")


class Outline(HTMLParser):
    """What the tests ask of a page: its elements with their attributes, its ids and headings."""

    VOID = frozenset({"meta", "input", "br", "hr", "img", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @property
    def ids(self) -> list[str]:
        return [found for _, attributes in self.elements if (found := attributes.get("id"))]

    @property
    def headings(self) -> list[int]:
        return [int(tag[1]) for tag, _ in self.elements if re.fullmatch(r"h[1-6]", tag)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for record in made_results():
        Store(folder).write(record)
    write_figures(folder)
    exhibit = folder / "tables" / "minilm-mini" / "table1.md"
    exhibit.parent.mkdir(parents=True)
    exhibit.write_text(
        "## Table 1; best dev score (protocol `paper`)\n\n| method | | RTE |\n| --- | --- | ---: |\n"
        "| one | ours | **81.00** ± 1.41 (2) |\n| | printed | 90.00 |\n| two | ours | <u>95.00</u> (2) |\n"
        "| | printed | 10.00 |\n\n## Table 1; dev score at the end (protocol `last`)\n\ntext of last\n\n"
        "## Table 1; verdicts\n\ntext of verdicts\n"
    )
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def text(results: Path) -> str:
    return (results / "report" / "index.html").read_text()


def cells_of(text: str) -> list[list[object]]:
    found = re.search(r'<script type="application/json" id="cell-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    cells: list[list[object]] = json.loads(found[1])
    return cells


def test_the_page_is_well_formed_with_every_section_and_headings_in_order(text: str) -> None:
    outline = Outline(text)
    assert outline.open == []
    assert [name for name, count in Counter(outline.ids).items() if count > 1] == []
    assert {"run", "tables", "exhibits", "figures", "audit", "cells"} <= set(outline.ids)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(outline.headings, outline.headings[1:], strict=False))
    assert ("html", {"lang": "en"}) in outline.elements
    targets = {
        value[1:] for _, attributes in outline.elements if (value := attributes.get("href") or "").startswith("#")
    }
    assert targets <= set(outline.ids)


def test_the_page_loads_nothing(text: str) -> None:
    loading = {"src", "srcset", "data", "action", "poster", "background", "xlink:href"}
    for tag, attributes in Outline(text).elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        for name in loading & set(attributes):
            assert (attributes[name] or "").startswith(("#", "data:image/png;base64,")), (tag, name)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_counts_tables_audit_figures_and_cells_are_there(text: str, results: Path) -> None:
    assert "22 cells: 21 finished, 1 failed, 0 unreadable." in text
    assert "<td>Made CPU, 1 thread</td>" in text
    assert "76.00 ± 1.41 (2)" in text
    assert "89.68" in text
    assert text.count("<svg") == len(list((results / "figures").rglob("*.svg")))
    cells = cells_of(text)
    assert len(cells) == len(made_results())
    commands = {str(cell[12]) for cell in cells}
    assert "python -m lora2_bench task=rte method=lora2 seed=1" in commands
    assert {(cell[6], cell[1], cell[9]) for cell in cells} == {
        ("paper", "done", 3),
        ("paper", "failed", None),
        ("clean", "done", None),
    }
    assert '"seed", "best", "looks at dev"' in text
    assert "elsewhere" not in text
    assert str(results) not in text


def test_parts_of_a_protocol_are_marked_so_that_the_switch_finds_them(text: str) -> None:
    marked = Counter(attributes.get("data-protocol") for _, attributes in Outline(text).elements)
    assert marked["paper"] > 1 and marked["last"] > 1 and marked["clean"] > 1
    assert re.search(
        r'<div data-protocol="last"><h3>Table 1; dev score at the end[^/]*</code>\)</h3>\s*<p>text of last', text
    )
    assert "<h3>Table 1; verdicts</h3>" in text
    assert '<div data-protocol="paper"><h3>Table 1; verdicts' not in text


def test_whatever_a_record_says_is_text(tmp_path: Path) -> None:
    record = measured("rte", "lora2", 0, 0.7)
    hardware, code = {**record.run["hardware"], "processor": EVIL}, {"sha": EVIL, "dirty": True}
    run = {
        **record.run,
        "hardware": hardware,
        "command": [EVIL],
        "versions": {EVIL: EVIL},
        "code": code,
    }
    evil = dataclasses.replace(record, label=f"lora2 {EVIL}", cut=[EVIL], run=run)
    for one in (evil, make_record(make_cell("cola"))):
        Store(tmp_path).write(one)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "x.md").write_text(
        f"# {EVIL}\n\n![picture](http://x/y.png) [js](javascript:evil())\n\n{EVIL}\n"
    )
    (path,) = write_report(tmp_path)
    outline = Outline(path.read_text())
    assert [tag for tag, _ in outline.elements].count("script") == 2
    assert "img" not in {tag for tag, _ in outline.elements}
    assert not [attributes for _, attributes in outline.elements if any(name.startswith("on") for name in attributes)]
    assert "javascript:" not in {(attributes.get("href") or "")[:11] for _, attributes in outline.elements}
    assert f"lora2 {EVIL}" in [cell[4] for cell in cells_of(path.read_text())]


def test_no_value_of_a_record_ends_the_script_element_of_the_cells() -> None:
    evil = dataclasses.replace(measured("rte", "lora2", 0, 0.7), label=EVIL)
    text = page(select([evil]), 0, [], [])
    start = text.index('id="cell-data">') + len('id="cell-data">')
    assert not set("<>&\u2028") & set(text[start : text.index("</script>", start)])
    assert [cell[4] for cell in cells_of(text)] == [EVIL]


def test_values_of_a_record_are_escaped_in_tables() -> None:
    record = measured("rte", "lora2", 0, 0.7)
    record.run["hardware"] = {"gpu": '<i>&"'}
    made = page(select([record]), 0, [], [])
    assert "<td>&lt;i&gt;&amp;&#34;</td>" in made
    assert "<i>" not in made


def test_the_title_of_a_figure_is_escaped_where_it_stands() -> None:
    plot = Plot("<b>", "name", '<i> "title"', "note", "paper", (), "x", "y")
    drawn = '<svg viewBox="0 0 1 1"><g id="a"/></svg>'
    outline = Outline(page(select([]), 0, [], [(plot, drawn)]))
    labels = [attributes.get("aria-label") for _, attributes in outline.elements]
    assert labels.count(plot.title) == 2
    assert not {"i", "b"} & {tag for tag, _ in outline.elements}


def test_markdown_keeps_plain_tags_and_no_others() -> None:
    made = from_markdown('a <u>second</u> <u onclick="x()">no</u> <b>no</b>', 3)
    assert "<u>second</u>" in made
    assert made.count("<u") == 1
    assert "&lt;b&gt;no&lt;/b&gt;" in made


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
    assert "python -m lora2_bench method=lora2 task=rte" in path.read_text()
    assert {"run", "audit"} <= set(outline.ids)
    assert not {"tables", "figures", "cells"} & set(outline.ids)


def test_more_figures_than_a_report_draws_are_left_to_their_own_command(tmp_path: Path) -> None:
    for method in ("lora", "lora2"):
        for seed, model in enumerate(("minilm", "roberta_base", "deberta_v3_base")):
            Store(tmp_path).write(measured("rte", method, seed, 0.7, model=model))
    (path,) = write_report(tmp_path)
    found = re.search(r"(\d+) of \1 figures are missing", path.read_text())
    assert found is not None
    assert int(found[1]) > DRAWN_AT_ONCE
    assert "<svg" not in path.read_text()
    assert not (tmp_path / "figures").exists()


def test_exhibits_are_all_markdown_tables_but_the_pages_own(results: Path) -> None:
    (results / "tables" / "minilm-mini" / "scores.md").write_text("# scores")
    assert [name for name, _ in exhibits(results)] == ["tables/minilm-mini/table1.md"]


def test_the_commands_write_figures_and_report(tmp_path: Path) -> None:
    Store(tmp_path).write(measured("rte", "lora2", 0, 0.7))
    for what, last in (("figures", "figures/minilm-mini/seconds-last.png"), ("report", "report/index.html")):
        done = report(what, "--results", str(tmp_path))
        assert done.returncode == 0, done.stderr
        *_, written, heavy = done.stdout.splitlines()
        assert written == f"written: {tmp_path / last}"
        assert heavy == "HEAVY"
    assert "Score against adapter parameters" in (tmp_path / "report" / "index.html").read_text()


def browse(path: Path, folder: Path, *arguments: str, fragment: str = "", width: int = 1280) -> str:
    """What headless Chromium prints of a page, with every host name unknown to it."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={folder}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", f"--window-size={width},900"]
    command += [*arguments, f"{path.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def switched(results: Path, text: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page after its script, with another protocol, the exhibit sorted by its figures, and cells filtered."""
    number = text[: text.index("Table 1; best dev score")].count("<table>")
    fragment = f"#protocol=last&sort={number}:2:descending&filter=cola%20full"
    folder = tmp_path_factory.mktemp("browser")
    return browse(results / "report" / "index.html", folder, "--dump-dom", fragment=fragment)


@in_a_browser
def test_the_protocol_switch_hides_the_other_protocols(switched: str) -> None:
    parts = [attributes for _, attributes in Outline(switched).elements if "data-protocol" in attributes]
    assert {part["data-protocol"] for part in parts if "hidden" not in part} == {"last"}
    assert {part["data-protocol"] for part in parts if "hidden" in part} == {"paper", "clean"}
    assert '<fieldset class="switch" id="switch">' in switched


@in_a_browser
def test_tables_are_sorted_with_what_belongs_to_a_row(switched: str) -> None:
    start = switched.index("Table 1; best dev score")
    exhibit = switched[start : switched.index("</table>", start)]
    names = re.findall(r"<td[^>]*>(one|two|printed|ours)</td>", exhibit)
    assert names == ["two", "ours", "printed", "one", "ours", "printed"]
    assert 'aria-sort="descending"' in exhibit
    assert "<button" in exhibit


@in_a_browser
def test_cells_are_listed_and_filtered(switched: str) -> None:
    assert re.search(r'<span id="count"[^>]*>2 of 2 shown, 22 in all</span>', switched)
    listed = switched[switched.index('id="cell-table"') : switched.index('id="more"')]
    assert re.findall(r"<td>(full|lora[^<]*)</td>", listed) == ["full", "full"]


@in_a_browser
def test_labels_run_no_script_in_a_browser(tmp_path: Path) -> None:
    evil = dataclasses.replace(measured("rte", "lora2", 0, 0.7), label=f"lora2 {EVIL}")
    text = page(select([evil]), 0, [], [])
    path = tmp_path / "page.html"
    click = "document.querySelector('#cell-table td button').click()"
    path.write_text(text.replace("</body>", f"<script>{click}; document.title = String(window.evil)</script></body>"))
    dumped = browse(path, tmp_path / "browser", "--dump-dom")
    assert "<title>undefined</title>" in dumped
    assert "evil()" in dumped
    assert f"<p>Record: cells/{evil.id}/record.json</p>" in dumped
    assert "<pre>python -m lora2_bench task=rte method=lora2 seed=0</pre>" in dumped


@in_a_browser
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_width_makes_the_page_scroll_sideways(results: Path, text: str, tmp_path: Path, width: int) -> None:
    # A frame of this width: a window has a least one of its own.
    measure = "frame.contentDocument.documentElement.scrollWidth + ' of ' + frame.contentWindow.innerWidth"
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe id="frame" width="{width}" height="700" style="border:0"></iframe><script>'
        f"const frame = document.getElementById('frame'); frame.onload = () => {{ document.title = {measure}; }};"
        f"frame.srcdoc = {htmlsafe_json_dumps(text)};</script>"
    )
    dumped = browse(outer, tmp_path / "browser", "--dump-dom")
    found = re.search(r"<title>(\d+) of (\d+)</title>", dumped)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= width


@in_a_browser
def test_the_page_asks_nothing_of_a_network(results: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    browse(results / "report" / "index.html", tmp_path / "browser", f"--log-net-log={log}", "--dump-dom")
    urls = set(re.findall(r'"url":"([^"]+)"', log.read_text()))
    asked = {url for url in urls if not url.startswith(("file:", "data:", "chrome", "about:"))}
    ours = {url for url in asked if not re.match(r"https?://([\w-]+\.)*(google|googleapis|gstatic)\.com/", url)}
    assert ours == set()


@in_a_browser
def test_a_screenshot_is_not_blank(results: Path, tmp_path: Path) -> None:
    import matplotlib.image

    shot = tmp_path / "shot.png"
    browse(results / "report" / "index.html", tmp_path / "browser", f"--screenshot={shot}", width=390)
    pixels = matplotlib.image.imread(shot)
    assert pixels.shape[0] >= 700
    assert 0.01 < (pixels[..., :3].mean(axis=2) < 0.5).mean() < 0.5
