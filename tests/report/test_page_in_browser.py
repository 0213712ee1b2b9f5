"""The report's page at work in headless Chromium, as a person uses it; skipped where there is none."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2.utils import htmlsafe_json_dumps
from numpy.typing import NDArray

from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.report.page.gather import gather
from lora2_bench.report.page.page import page, write_report
from lora2_bench.report.statistics.significance import mcnemar
from tests.browser import CHROMIUM, NO_CHROMIUM, browse
from tests.made_records import make_row_record
from tests.report.made_results import made_results, measured
from tests.report.test_page import EVIL

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
ROWS = {"full": 88.0, "lora_r1": 86.0, "lora2_k1": 86.2}
WIGGLE = (0.0, 0.5, -0.3, 0.1)


def records() -> list[Record]:
    found = [
        make_row_record(row, task, seed, base + 0.4, base + WIGGLE[(seed + at) % 4])
        for at, (row, base) in enumerate(ROWS.items())
        for task in ("cola", "rte")
        for seed in range(4)
    ]
    return [*found, *made_results()]


def right_rows(label: str, seed: int) -> NDArray[np.bool_]:
    """Which of CoLA's forty rows a method has right: some are easy for both, others for one under some seeds."""
    easy = np.random.default_rng(7).random(40)
    draws = np.random.default_rng([seed, label == "full"]).random(40)
    return easy + draws > (0.7 if label == "full" else 0.9)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for record in records():
        Store(folder).write(record)
        if record.cell["task"] == "rte" and record.label in ("full", "lora r=1"):
            # Of four rows the first is right under `full` alone, the last under LoRA alone.
            logits = [[0, 1], [0, 1], [1, 0], [1, 0]] if record.label == "full" else [[1, 0], [0, 1], [1, 0], [0, 1]]
            kept = {"dev": {"labels": [1, 1, 0, 1], "best": logits, "last": logits}}
            (Store(folder).path(record.id).parent / "predictions.json").write_text(json.dumps(kept))
        if record.cell["task"] == "cola" and record.label in ("full", "lora r=1"):
            right, labels = right_rows(record.label, record.cell["seed"]), [at % 2 for at in range(40)]
            chosen = [label if ok else 1 - label for label, ok in zip(labels, right, strict=True)]
            logits = [[1 - one, one] for one in chosen]
            kept = {"dev": {"labels": labels, "best": logits, "last": logits}}
            (Store(folder).path(record.id).parent / "predictions.json").write_text(json.dumps(kept))
    write_report(folder)
    return folder


HELP = """
const $ = (id) => document.getElementById(id);
const choose = (id, at) => { $(id).selectedIndex = at; $(id).dispatchEvent(new Event("change")); };
const rows = (id) => [...$(id).rows].map((row) => [...row.cells].map((cell) => cell.textContent));
const seen = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.getClientRects().length);
const told = {};
"""


def drive(results: Path, tmp_path: Path, steps: str, fragment: str = "", **how: Any) -> dict[str, Any]:
    """Run `steps` after the page's own script, and return what they put into `told`."""
    text = (results / "report" / "index.html").read_text()
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text)  # the policy lets no other script in
    end = "const pre = document.createElement('pre'); pre.id = 'told'; pre.textContent = JSON.stringify(told);"
    end += "document.body.append(pre);"
    copy = tmp_path / "driven.html"
    copy.write_text(text.replace("</body>", f"<script>(async () => {{ {HELP}{steps}\n{end} }})();</script></body>"))
    dumped = browse(copy, tmp_path / "browser", "--dump-dom", fragment=fragment, **how)
    found = re.search(r'<pre id="told">(.*?)</pre>', dumped, re.DOTALL)
    assert found is not None, dumped[-3000:]
    values: dict[str, Any] = json.loads(html.unescape(found[1]))
    return values


def test_pickers_switch_place_protocol_and_methods(results: Path, tmp_path: Path) -> None:
    told = drive(
        results,
        tmp_path,
        """
told.first = [$("place").value, $("protocol").value, seen(".answer").length];
told.said = $("versus-said").textContent;
choose("method-b", 2);
told.table = rows("versus-table");
told.examples = rows("versus-examples");
choose("method-b", 0);
told.same = [$("versus-said").textContent, rows("versus-table").length];
choose("place", 1);
told.other = [$("place").value, $("protocol").value, seen("#leaderboard tbody tr").length];
told.other.push($("method-a").options.length);
choose("protocol", [...$("protocol").options].findIndex((one) => one.value === "paper"));
told.hash = location.hash;
told.shown = seen("#leaderboard [data-place]").map((one) => [one.dataset.place, one.dataset.protocol]);
""",
    )
    assert told["first"] == ["deberta_v3_base-hub", "last", 1]
    assert told["said"].startswith("full fine-tuning minus LoRA² k=1: +1.80 points on average of 2, 95 % interval ")
    head, average, cola, rte = told["table"]
    assert head == ["task", "A − B", "95 % interval", "p", "n", "seed 0", "seed 1", "seed 2", "seed 3"]
    assert average[:2] == ["average of 2", "+2.00"] and average[4:] == ["4", "+1.50", "+2.80", "+1.60", "+2.10"]
    assert (cola[0], rte[0]) == ("CoLA", "RTE") and re.fullmatch(r"\+1\.\d\d to \+2\.\d\d", rte[2])
    assert told["examples"][2:] == [["RTE", "4", "1.0", "1.0", "1.0000", "0", "3"]]
    sides = [np.stack([right_rows(label, seed) for seed in range(4)]) for label in ("full", "lora r=1")]
    test = mcnemar(*sides)
    assert 0.0005 < test.p < 0.5, "a p that the page shows with several digits"
    name, seeds, only_a, only_b, p, *_ = told["examples"][1]
    assert (name, seeds, p) == ("CoLA", "4", f"{test.p:.4f}")
    assert [float(only_a), float(only_b)] == pytest.approx([test.only_a / 4, test.only_b / 4], abs=0.051)
    assert told["same"] == ["Choose two different methods.", 0]
    assert told["other"] == ["minilm-mini", "last", 3, 3]
    assert "place=minilm-mini" in told["hash"] and "protocol=paper" in told["hash"]
    assert told["shown"] == [["minilm-mini", "paper"]]


def test_marks_speak_and_the_legend_switches_methods(results: Path, tmp_path: Path) -> None:
    told = drive(
        results,
        tmp_path,
        """
const mark = seen("#answer .mark")[0];
mark.dispatchEvent(new PointerEvent("pointermove", { clientX: 200, clientY: 200 }));
told.tip = [$("tip").hidden, $("tip").textContent];
dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
told.escaped = $("tip").hidden;
mark.focus();
told.focused = [document.activeElement === mark, $("tip").hidden];
const count = seen(".mark").length;
const button = seen("#answer .legend button")[0];
button.click();
told.off = [button.getAttribute("aria-pressed"), count - seen(".mark").length];
button.click();
told.on = [button.getAttribute("aria-pressed"), count - seen(".mark").length];
""",
    )
    assert told["tip"][0] is False
    assert re.fullmatch(
        r"full fine-tuning: mean 88\.\d\d, 95 % interval [\d.]+ to [\d.]+, n = 4 seeds, [\d,]+ parameters",
        told["tip"][1],
    )
    assert (told["escaped"], told["focused"]) == (True, [True, False])
    assert told["off"][0] == "false" and told["off"][1] >= 3, "its point, and its learning curves"
    assert told["on"] == ["true", 0]


def test_cells_are_filtered_sorted_opened_and_downloaded(results: Path, tmp_path: Path) -> None:
    told = drive(
        results,
        tmp_path,
        """
const files = [];
URL.createObjectURL = (blob) => { files.push(blob); return "#"; };
HTMLAnchorElement.prototype.click = function () { told.names = [...(told.names || []), this.download]; };
$("filter").value = "minilm cola full";
$("filter").dispatchEvent(new Event("input"));
told.count = $("count").textContent;
const header = [...document.querySelectorAll("#cell-table th button")].find((one) => one.textContent === "best");
header.click(); header.click();
told.best = rows("cell-table").slice(1).map((row) => row[8]);
document.querySelector("#cell-table td button").click();
told.open = document.querySelector("#cell-table .details").textContent;
document.querySelector("#cells .csv").click();
document.querySelector("#leaderboard .csv").click();
told.files = await Promise.all(files.map((one) => one.text()));
told.hash = location.hash;
""",
    )
    assert told["count"] == "2 of 2 shown, 46 in all"
    assert told["best"] == ["54.00", "51.00"]
    assert "record.json" in told["open"] and "python -m lora2_bench task=cola method=full seed=1" in told["open"]
    assert told["names"] == ["cells.csv", "leaderboard-deberta_v3_base-hub-last.csv"]
    head, *lines = told["files"][0].splitlines()
    assert head.startswith("cell,status,backbone") and len(lines) == 2
    assert told["files"][1].splitlines()[0] == "method,tied,mean,95 % interval,seeds,adapter parameters"
    assert "filter=minilm%20cola%20full" in told["hash"]


def test_an_address_gives_the_view_that_it_was_taken_of(results: Path, tmp_path: Path) -> None:
    told = drive(
        results,
        tmp_path,
        """
told.state = [$("place").value, $("protocol").value, $("filter").value, $("method-a").value, $("method-b").value];
const shown = seen("#leaderboard table")[0];
told.order = [...shown.tBodies[0].rows].map((row) => row.cells[0].textContent);
told.sorted = [...shown.tHead.rows[0].cells].map((cell) => cell.getAttribute("aria-sort"));
""",
        "#place=deberta_v3_base-hub&protocol=paper&a=LoRA%20r%3D1&b=full%20fine-tuning&filter=rte&sort=1:2:ascending",
    )
    assert told["state"] == ["deberta_v3_base-hub", "paper", "rte", "LoRA r=1", "full fine-tuning"]
    assert told["order"] == ["LoRA r=1", "LoRA² k=1", "full fine-tuning"]
    assert told["sorted"][2] == "ascending"


def test_the_policy_lets_the_pages_own_script_and_style_in_and_no_other(results: Path, tmp_path: Path) -> None:
    text = (results / "report" / "index.html").read_text()
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", "<script>document.title = 'evil'</script></body>"))
    dumped = browse(path, tmp_path / "browser", "--dump-dom")
    assert "<title>lora2-bench: report</title>" in dumped
    assert '<p class="pickers switch" id="switch">' in dumped, "the page's own script has run"


def test_labels_run_no_script(tmp_path: Path) -> None:
    evil = dataclasses.replace(measured("rte", "lora2", 0, 0.7), label=f"lora2 {EVIL}")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text(page(gather([evil]), 0, lambda cell: None))
    told = drive(
        tmp_path,
        tmp_path,
        """
document.querySelector("#cell-table td button").click();
document.querySelector(".mark").dispatchEvent(new PointerEvent("pointermove"));
told.evil = window.evil === undefined;
told.tip = $("tip").textContent;
""",
    )
    assert told["evil"] is True
    assert "<script>" in told["tip"]


@pytest.mark.parametrize("width", [320, 390])
def test_no_width_makes_the_page_scroll_sideways(results: Path, tmp_path: Path, width: int) -> None:
    # A frame of this width: a window has a least one of its own.
    text = (results / "report" / "index.html").read_text()
    measure = "[view.document.documentElement.scrollWidth, view.innerWidth, bottom].join(' ')"
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe id="frame" width="{width}" height="844" style="border:0"></iframe><script>'
        "const frame = document.getElementById('frame'); frame.onload = () => { const view = frame.contentWindow;"
        "const drawn = [...view.document.querySelectorAll('#answer svg')].filter((one) => one.getClientRects().length);"
        f"const bottom = Math.round(drawn[0].getBoundingClientRect().bottom); document.title = {measure}; }};"
        f"frame.srcdoc = {htmlsafe_json_dumps(re.sub('<meta http-equiv=[^>]*>', '', text))};</script>"
    )
    dumped = browse(outer, tmp_path / "browser", "--dump-dom")
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", dumped)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= width
    if width == 390:
        assert int(found[3]) <= 844, "question, answer and figure are one screen of a phone"


def test_the_page_prints_without_its_switches_and_asks_nothing_of_a_network(results: Path, tmp_path: Path) -> None:
    log, pdf = tmp_path / "net.json", tmp_path / "page.pdf"
    browse(results / "report" / "index.html", tmp_path / "browser", f"--log-net-log={log}", f"--print-to-pdf={pdf}")
    urls = set(re.findall(r'"url":"([^"]+)"', log.read_text()))
    asked = {url for url in urls if not url.startswith(("file:", "data:", "chrome", "about:"))}
    ours = {url for url in asked if not re.match(r"https?://([\w-]+\.)*(google|googleapis|gstatic)\.com/", url)}
    assert ours == set()
    printed = pdf.read_bytes()
    assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20


@pytest.mark.parametrize("dark", [False, True])
def test_a_screenshot_is_not_blank_and_follows_the_colour_scheme(results: Path, tmp_path: Path, dark: bool) -> None:
    import matplotlib.image

    shot = tmp_path / "shot.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    browse(results / "report" / "index.html", tmp_path / "browser", f"--screenshot={shot}", *scheme)
    pixels = matplotlib.image.imread(shot)
    assert pixels.shape[0] >= 700
    share = (pixels[..., :3].mean(axis=2) < 0.5).mean()
    assert 0.5 < share < 0.99 if dark else 0.01 < share < 0.5
