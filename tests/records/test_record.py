"""A record's layout, the line that is printed of it, and what is kept out of it."""

from __future__ import annotations

import dataclasses
import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.records.record import SCHEMA, Record, result_line
from lora2_bench.records.scrub import scrub, scrubbed
from tests.made_records import make_cell, make_failed, make_record


def test_the_result_line_names_all_that_a_user_asks_for() -> None:
    record = make_record(make_cell("cola", "lora2", seed=3), best=0.51234, last=0.4)
    assert result_line(record, "out/record.json") == (
        "cola (mini) | minilm | lora2 k=1 | seed 3 | matthews_correlation best 0.5123 of 2 looks at dev, last 0.4000 | "
        "120 adapter parameters | 12.3 s | out/record.json"
    )


def test_the_result_line_groups_thousands_and_names_the_size() -> None:
    line = result_line(make_record(make_cell(method="lora")), "p")
    assert "lora r=8" in line
    assert "1,920 adapter parameters" in line


def test_the_result_line_of_a_cut_run_says_so() -> None:
    record = make_record(make_cell(), cut=("train.max_steps=10", "data.max_train=64"))
    assert result_line(record, "p").endswith("| p | cut: train.max_steps=10; data.max_train=64")


def test_under_the_clean_protocol_there_is_no_last_score() -> None:
    line = result_line(make_record(make_cell(protocol="clean"), best=0.7), "p")
    assert "accuracy best 0.7000 |" in line  # dev is looked at once
    assert "last" not in line


def test_the_result_line_of_a_failed_run_gives_step_and_cause() -> None:
    line = result_line(make_failed(make_cell("mrpc", "full"), 7, "the loss is nan"), "p")
    assert line == "mrpc (mini) | minilm | full | seed 0 | failed at step 7: the loss is nan | p"


@pytest.mark.parametrize("record", [make_record(make_cell()), make_failed(make_cell())], ids=["done", "failed"])
def test_a_record_survives_its_json(record: Record) -> None:
    values = json.loads(json.dumps(record.to_dict()))
    assert next(iter(values)) == "schema"
    assert Record.from_dict(values) == record


@pytest.mark.parametrize("schema", [SCHEMA + 1, SCHEMA - 1, None, str(SCHEMA)])
def test_another_schema_is_refused_by_its_number(schema: object) -> None:
    values = {**make_record(make_cell()).to_dict(), "schema": schema}
    with pytest.raises(ValueError, match=f"schema {schema} is not {SCHEMA}"):
        Record.from_dict(values)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_record(make_cell()).status = "failed"  # type: ignore[misc]


names = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=12).filter(
    lambda name: name.strip(".") != ""
)
before_a_path = st.sampled_from(
    ["results=", "data.dir=", "+x=[a,", "tracker={dir:", "model.path='", 'a="', "", "x=file://"]
)


@settings(deadline=None)
@given(before_a_path, st.sampled_from(["/home/", "/Users/", "/mnt/data/home/"]), st.just("al1ce-9"), names, names)
def test_scrub_takes_the_owner_out_of_a_path(before: str, homes: str, owner: str, folder: str, last: str) -> None:
    told = scrub(f"{before}{homes}{owner}/{folder}/{last}")
    assert owner not in told
    assert told.startswith(before)
    assert told.endswith(last)


@pytest.mark.parametrize("path", ["~/runs/x", "~al1ce/runs/x"])
def test_scrub_takes_out_a_tilde_and_its_owner(path: str) -> None:
    assert scrub(f"results={path}") == "results=.../x"


def test_scrub_takes_out_the_home_folder_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/al1ce")
    assert Path.home() == Path("/home/al1ce")
    assert scrub("results=/home/al1ce") == "results=~"
    assert scrub("results=/home/al1ce/") == "results=.../"
    assert scrub("results=/home/al1ce/runs") == "results=.../runs"


@pytest.mark.parametrize("sign", ["", "'", '"'])
def test_a_path_with_blanks_is_taken_out_whole(sign: str) -> None:
    values = {"command": [f"+data.dir={sign}/srv/al1ce b/my data/glue set{sign}", "seed=3"], "dir": "~/my data/glue"}
    assert scrubbed(values) == {"command": [f"+data.dir={sign}.../glue set{sign}", "seed=3"], "dir": ".../glue"}


@settings(deadline=None)
@given(
    st.text(string.ascii_letters + string.digits, min_size=20, max_size=40),
    st.text("0123456789abcdef", min_size=40, max_size=64),
)
def test_scrub_takes_out_tokens(hub: str, wandb: str) -> None:
    told = scrub(f"+a=hf_{hub} +b={wandb} +c=wandb_v1_{hub} +d=https://me:{hub}@host/x seed=3")
    assert hub not in told
    assert wandb not in told
    assert told.endswith("@host/x seed=3")


values = (
    st.integers().map(str)
    | st.floats(allow_nan=False).map(str)
    | st.sampled_from(["null", "true", "[q,k,v]", "minilm/lora2", "../shared/glue", "results/quick", "0.1", "1e-3"])
    | st.sampled_from(["https://example.org/a/b", "a-b_c.d", "{a:1,b:2}", "${recipe.lr}"])
)


@settings(deadline=None)
@given(st.lists(st.text(string.ascii_lowercase + "_", min_size=1), min_size=1, max_size=3).map(".".join), values)
def test_scrub_keeps_ordinary_overrides(name: str, value: str) -> None:
    assert scrub(f"{name}={value}") == f"{name}={value}"


def test_a_failure_comes_home_from_another_process() -> None:
    import pickle

    from lora2_bench.errors import CellFailed

    copy = pickle.loads(pickle.dumps(CellFailed(7, "the training loss is nan")))
    assert (copy.step, copy.cause, str(copy)) == (7, "the training loss is nan", "step 7: the training loss is nan")
