"""The page at `/` in headless Chromium, under its own policy, with real keys; skipped where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest

from lora2_bench.serving.http.guard import Guard
from lora2_bench.serving.http.page import Page
from tests.browser import CHROMIUM, NO_CHROMIUM, Tab
from tests.serving.http.made import Toy, listening

TOKEN = "0123456789abcdef-token"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
FOCUSED = "document.activeElement.id"
RESULT = "document.getElementById('result').innerText"


def test_the_page_is_one_file_with_nothing_of_elsewhere() -> None:
    text = Page().body.decode()
    script = files("lora2_bench.serving.http").joinpath("page.js").read_text()
    assert script in text and "/* page" not in text
    assert re.findall(r"""(?:src|href|action)=["']?([^"'>\s]+)""", text) == ["data:,"]
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "innerHTML" not in text and "localStorage" not in text


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    tab = Tab(tmp_path_factory.mktemp("browser"))
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    told: list[str] = []
    with listening(Toy(), told) as port:
        yield f"http://127.0.0.1:{port}/"
    assert told == []


@needs_browser
def test_with_keys_alone_one_chooses_an_adapter_writes_and_reads_the_answer(tab: Tab, address: str) -> None:
    tab.open(address)
    tab.until("!document.getElementById('form').hidden")
    assert tab.value("document.getElementById('about').textContent") == "Trained adapters: 3, over one minilm backbone."
    groups = tab.value("[...document.querySelectorAll('optgroup')].map((one) => one.label)")
    assert groups == ["rte", "sst2", "stsb"]

    tab.press("Tab")
    assert tab.value(FOCUSED) == "filter"
    tab.write("sst")
    tab.until("document.getElementById('count').textContent === '1 of 3 adapters'")
    assert tab.value("document.getElementById('pair-field').hidden") is True
    tab.press("Tab")
    assert tab.value(FOCUSED) == "adapter"
    tab.press("Tab")
    assert tab.value(FOCUSED) == "text"
    tab.write("good film")
    tab.press("Tab")
    assert tab.value(FOCUSED) == "go"
    tab.press("Enter", text="\r")
    tab.until(f"{RESULT}.includes('positive')")
    lines = tab.value(RESULT).split("\n")
    assert lines[0] == "positive" and "by sst2 lora r=1, seed 0" in lines
    rows = tab.value("[...document.querySelectorAll('#result tr')].map((row) => row.innerText.trim().split('\\t'))")
    assert rows == [["label", "probability"], ["positive", "100.0 %"], ["negative", "0.0 %"]]

    assert {*tab.requested()} - {"data:,"} == {address, f"{address}adapters", f"{address}predict"}
    assert tab.complaints() == []


@needs_browser
def test_two_texts_where_the_task_has_two_and_a_score_for_a_regression(tab: Tab, address: str) -> None:
    tab.open(address)
    tab.until("!document.getElementById('form').hidden")
    tab.value("document.getElementById('filter').focus()")
    tab.write("stsb")
    tab.until("!document.getElementById('pair-field').hidden")
    assert tab.value("document.getElementById('text-label').textContent") == "First text"
    tab.value("document.getElementById('text').focus()")
    tab.write("abc")
    tab.press("Enter", control=True)  # the second text is missing: nothing is sent, and its field gets the focus
    tab.until(f"{FOCUSED} === 'pair'")
    tab.write("de")
    tab.press("Enter", control=True)
    tab.until(f"{RESULT}.startsWith('0.500')")
    tab.write("x" * 30_000)
    tab.press("Enter", control=True)
    tab.until(f"{RESULT}.startsWith('Error: text_pair has 30002 characters: send 20000 at most')")


@needs_browser
def test_a_screen_reader_finds_names_and_hears_the_answer(tab: Tab, address: str) -> None:
    tab.open(address)
    tab.until("!document.getElementById('form').hidden")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (one["role"]["value"], one.get("name", {}).get("value", "")) for one in nodes if not one.get("ignored", False)
    }
    for wanted in (
        ("heading", "Try an adapter"),
        ("searchbox", "Filter"),
        ("combobox", "Adapter"),
        ("textbox", "First text"),
        ("textbox", "Second text"),
        ("button", "Predict"),
        ("main", ""),
        ("status", "Result"),
    ):
        assert wanted in named, sorted(named)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_scheme_with_contrast_enough(tab: Tab, address: str, scheme: str) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(address)
    colours = tab.value(
        "['--back', '--front', '--soft', '--link', '--wrong', '--line'].map((one) => "
        "getComputedStyle(document.documentElement).getPropertyValue(one).trim())"
    )
    shown = tab.value("getComputedStyle(document.body).backgroundColor")
    back, *others = [luminance(one) for one in colours]
    assert (back < 0.05) is (scheme == "dark") and shown == f"rgb{tuple(bytes.fromhex(colours[0][1:]))}"
    ratios = [(max(back, one) + 0.05) / (min(back, one) + 0.05) for one in others]
    assert min(ratios[:-1]) >= 4.5 and ratios[-1] >= 3, ratios


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG has it."""
    parts = [value / 255 for value in bytes.fromhex(colour[1:])]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@needs_browser
def test_no_width_makes_the_page_scroll_sideways(tab: Tab, address: str) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=320, height=700, deviceScaleFactor=1, mobile=True)
    tab.open(address)
    tab.until("!document.getElementById('form').hidden")
    assert tab.value("document.documentElement.scrollWidth <= 320")
    tab.call("Emulation.clearDeviceMetricsOverride")


@needs_browser
def test_the_token_is_asked_for_and_kept_in_the_page_alone(tab: Tab) -> None:
    told: list[str] = []
    with listening(Toy(), told, Guard(TOKEN, loopback=False)) as port:
        tab.open(f"http://127.0.0.1:{port}/")
        tab.until("!document.getElementById('token-form').hidden")
        assert tab.value("document.getElementById('about').textContent") == "This server asks for its token."
        assert tab.value(FOCUSED) == "token"
        tab.write("wrong")
        tab.press("Enter", text="\r")
        tab.until("document.getElementById('about').textContent.startsWith('Error: a token is needed')")
        tab.value("document.getElementById('token').value = ''")
        tab.write(TOKEN)
        tab.press("Enter", text="\r")
        tab.until("!document.getElementById('form').hidden && document.getElementById('token-form').hidden")
        assert tab.value(FOCUSED) == "filter"
        assert TOKEN not in "".join(tab.requested())
        assert tab.value("document.cookie + location.href + localStorage.length + sessionStorage.length").endswith("00")
    assert told == []
