"""The optional mirror: offline without a key, and never a reason for a cell to fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lora2_bench.experiment.plan import Plan, RunOptions
from lora2_bench.tracking.tracker import make_tracker
from tests.made_records import make_cell
from tests.runner.test_run import QUICK, Bench, Folders, records_of, science_of, tiny
from tests.tracking.test_publish import Runs


def test_wandb_offline_mirrors_and_changes_nothing(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    arguments = (*tiny(tiny_folders("bert")), *QUICK, "method=lora")
    assert bench(*arguments, f"results={tmp_path / 'plain'}").code == 0
    told = bench(*arguments, f"results={tmp_path / 'mirrored'}", "tracker=wandb")
    assert told.code == 0 and "warning" not in told.err
    assert list((tmp_path / "mirrored" / "wandb").rglob("*.wandb"))
    assert list((tmp_path / "mirrored").glob("cells/*/published.json"))  # make publish has nothing left to do
    (plain,), (mirrored,) = records_of(tmp_path / "plain"), records_of(tmp_path / "mirrored")
    assert science_of(plain) == science_of(mirrored)


@pytest.mark.parametrize("part", ["init", "log", "finish"])
def test_a_failing_tracker_is_told_once_and_fails_no_cell(
    part: str, bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, calls = Runs(), {"init": 0, "log": 0, "finish": 0}
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    init = wandb.init

    def called(name: str) -> None:
        calls[name] += 1
        if name == part:
            raise RuntimeError("no disk,\nno network, no luck")

    def counted(**settings: object) -> object:
        called("init")
        run = init(**settings)
        run.log, run.finish = lambda *_, **__: called("log"), lambda **_: called("finish")
        return run

    wandb.init = counted  # type: ignore[method-assign]
    told = bench(*tiny(tiny_folders("bert")), *QUICK, "method=lora", f"results={tmp_path}", "tracker=wandb")
    assert told.code == 0
    warning = "warning: tracker: RuntimeError: no disk, no network, no luck; the run goes on without it"
    assert [line for line in told.err.splitlines() if "tracker" in line] == [warning]
    assert (
        calls
        == {
            "init": {"init": 1, "log": 0, "finish": 0},
            "log": {"init": 1, "log": 1, "finish": 0},
            "finish": {"init": 1, "log": 2, "finish": 1},
        }[part]
    )
    assert records_of(tmp_path)[0]["status"] == "done"
    assert not list(tmp_path.glob("cells/*/published.json"))


def test_group_and_tags_can_be_chosen(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Runs()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    common = (*tiny(tiny_folders("bert")), *QUICK, "method=lora", f"results={tmp_path}", "tracker=wandb")
    assert bench(*common).code == 0
    assert bench(*common, "rerun=true", "tracker.group=mine", "tracker.tags=[pilot]").code == 0
    plain, chosen = wandb.runs
    assert (plain["group"], chosen["group"]) == ("rte lora r=1", "mine")
    assert chosen["tags"] == [*plain["tags"], "pilot"] and plain["id"] == chosen["id"]
    assert sorted(plain["history"]) == [6, 12] and plain["summary"]["status"] == "done"
    told = bench(*common, "rerun=true", "tracker.group=''")
    assert told.code == 2 and "tracker.group" in told.err


def test_a_suite_gives_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Runs()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run_options = RunOptions(tmp_path, tracker={"name": "wandb", "project": "p", "group": None, "tags": []})
    make_tracker(Plan(make_cell(), "x.Y", run_options, command=("suite=table1", "task=rte")))
    assert wandb.runs[0]["group"] == "table1 lora2 k=1"
