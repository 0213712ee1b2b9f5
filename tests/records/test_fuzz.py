"""Whatever stands in a record's place: readers tell it in one line or read it, and write below results alone."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora2_bench.errors import UserError
from lora2_bench.records.store import Store, read_record, read_status
from lora2_bench.report.tables.write import write_tables
from lora2_bench.sweep.cells import SweepCell
from lora2_bench.sweep.states import states
from lora2_bench.tracking.publish import publish
from tests.made_records import make_row_record
from tests.tracking.test_publish import Runs

RECORD = make_row_record("lora2_k1", "rte", result={"ranks": {"0": {"q": 8}}, "ranks_kept": 8}).to_dict()
TEXT = json.dumps(RECORD, indent=1)
DERANDOMIZED = settings(
    max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
Place = tuple[str | int, ...]


def places(values: Any, at: Place = ()) -> list[Place]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [place for name, item in items for place in ((*at, name), *places(item, (*at, name)))]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([1e308, -1e308, 1e299, 5e-324, 10**400, -1, 0, float("nan"), float("inf")]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["../../../esc", "/etc/x", "a/b", "..", "", "\0", "<script>x</script>", "\ud800", "a|b", "x\ny"]),
    st.sampled_from([[], {}, [[]], {"": None}, nested(50), nested(600)]),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A record's bytes with a few values changed or gone, or cut, flipped or nested."""
    way = draw(st.sampled_from(["values", "values", "values", "cut", "flip", "nest"]))
    data = TEXT.encode()
    if way == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if way == "flip":
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
    if way == "nest":
        return data.replace(b": 8", b": " + b"[" * 10**5, 1)
    values = copy.deepcopy(RECORD)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(values)))
        inner: Any = values
        for name in path:
            inner = inner[name]
        if draw(st.booleans()):
            del inner[last]
        else:
            inner[last] = copy.deepcopy(draw(ODD))
        if not places(values):
            break
    return json.dumps(values).encode()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return fake


@DERANDOMIZED
@given(content=damaged())
def test_a_damaged_record_is_read_or_told_in_one_line(
    content: bytes, tmp_path: Path, wandb: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "in" / "results"
    path = Store(results).path(RECORD["id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (path.parent / "published.json").unlink(missing_ok=True)
    try:
        known = read_record(path)
    except ValueError as error:
        known = None
        assert "\n" not in str(error) and len(str(error)) < 400
    capsys.readouterr()
    write_tables(results)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (known is None), told
    (state,) = states([SweepCell(RECORD["id"], ())], results, dict)
    assert known is None or state.state == known.status == read_status(path)
    sent, before = publish(results, "p")
    assert (sent, before) == (int(known is not None and known.is_done), 0)
    if known is None:
        with pytest.raises(UserError):
            Store(results).read(RECORD["id"])
    assert [one.name for one in tmp_path.iterdir()] == ["in"]
    assert [one.name for one in (tmp_path / "in").iterdir()] == ["results"]
