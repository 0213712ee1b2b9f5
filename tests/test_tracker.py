"""The optional mirror: offline without a key, and never a reason for a cell to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_run import QUICK, Bench, Folders, records_of, science_of, tiny


def test_wandb_offline_mirrors_and_changes_nothing(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    arguments = (*tiny(tiny_folders("bert")), *QUICK, "method=lora")
    assert bench(*arguments, f"results={tmp_path / 'plain'}").code == 0
    told = bench(*arguments, f"results={tmp_path / 'mirrored'}", "tracker=wandb")
    assert told.code == 0 and "warning" not in told.err
    assert list((tmp_path / "mirrored" / "wandb").rglob("*.wandb"))
    (plain,), (mirrored,) = records_of(tmp_path / "plain"), records_of(tmp_path / "mirrored")
    assert science_of(plain) == science_of(mirrored)


def test_a_failing_tracker_fails_no_cell(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def init(**settings: object) -> None:
        raise RuntimeError("no disk, no network, no luck")

    monkeypatch.setattr(wandb, "init", init)
    told = bench(*tiny(tiny_folders("bert")), *QUICK, "method=lora", f"results={tmp_path}", "tracker=wandb")
    assert told.code == 0
    assert "warning: tracker: RuntimeError: no disk, no network, no luck; the run goes on without it" in told.err
    assert records_of(tmp_path)[0]["status"] == "done"
