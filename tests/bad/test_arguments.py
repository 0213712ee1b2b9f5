"""Wrong command lines end before anything is loaded: exit code 2, one line that names the mistake and the fix."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Told

WRONG = [
    (["--experimental-rerun=evil.pkl"], r"--experimental-rerun is not possible: it would run code from a pickle"),
    (["--experimental-rerun", "evil.pkl"], r"--experimental-rerun is not possible"),
    (["--exp=evil.pkl"], r"--exp is not an option"),  # Hydra's parser takes beginnings of names
    (["--foo"], r"--foo is not an option"),
    (["--multrun", "seed=1,2"], r"--multrun is not an option: did you mean --multirun\?"),
    (["--conf-dir=x"], r"--conf-dir is not an option: did you mean --config-dir\?"),
    (["-x"], r"-x is not an option"),
    (["+task.foo=1"], r"task\.foo is not a setting: give one of name"),
    (["+recipe.foo=1"], r"recipe\.foo is not a setting: give one of .*batch_size"),
    (["tracker=wandb", "+tracker.projct=x"], r"tracker\.projct is not a setting: did you mean tracker\.project\?"),
    (["train={}"], r"train=\{\} changes nothing: give train\.NAME=VALUE"),
    (["lr=5e-4"], r"lr is not a setting: did you mean train\.lr\?"),
    (["batch_size=16"], r"batch_size is not a setting: did you mean train\.batch_size\?"),
    (["alpha=32"], r"alpha is not a setting: did you mean method\.alpha\?"),
    (["method=lora", "method.k=2"], r"method\.k is not a setting: it is one of method=lora2$"),
    (["method.lora_alpha=16"], r"method\.lora_alpha is not a setting: did you mean method\.alpha\?"),
    (["learning_rate=1e-3"], r"learning_rate is not a setting: did you mean train\.lr\?"),
    (["rank=8"], r"rank is not a setting: did you mean kr\?"),
    (["retention=foo"], r"retention=foo is not possible: retention must be null, all, or a list of some of sts, "),
    (["minutes=3"], r"minutes is not a setting: did you mean checkpoint\.minutes\?"),
    (["qqq=3"], r"qqq is not a setting: `--cfg job` lists all settings"),
    (["hydra/sweeper=optuna"], r"hydra/sweeper=optuna is not known: choose one of basic"),
    (["hydra/launcher=nope"], r"hydra/launcher=nope is not known: choose one of "),
    (["-m", "task=glob(zz*)"], r"task=glob\(zz\*\) .*means no cell at all"),
]


@pytest.mark.parametrize(("arguments", "pattern"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_wrong_command_line_is_one_line(
    arguments: list[str], pattern: str, bench: Callable[..., Told], tmp_path: Path
) -> None:
    told = bench(*arguments, f"results={tmp_path}")
    assert told.code == 2
    (line,) = [one for one in told.err.splitlines() if "HYDRA" not in one]
    assert line.startswith("error: ")
    assert re.search(pattern, line), line
    assert not (tmp_path / "cells").exists() and not (tmp_path / "running").exists()


@pytest.mark.parametrize(
    ("variables", "pattern"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE=abc is not possible: it must be a number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not possible"),
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2 without RANK is no launcher's: unset it, or start with `accelerate launch`",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2 without MASTER_ADDR is no launcher's"),
    ],
)
def test_variables_that_no_launcher_set_end_at_once(
    variables: dict[str, str], pattern: str, bench: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = bench(f"results={tmp_path}")
    assert told.code == 2 and told.err.count("\n") == 1 and pattern in told.err


def test_an_option_may_stand_anywhere(bench: Callable[..., Told], tmp_path: Path) -> None:
    told = bench("task=rte", "--cfg", "job", "--resolve", "seed=7", f"results={tmp_path}")
    assert told.code == 0 and "seed: 7" in told.out and sys.argv[1:4] == ["--cfg", "job", "--resolve"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["seed=1", "seed=2"], "warning: seed is given as 1 and as 2: the last one counts"),
        (["task=rte", "method=lora", "task=cola"], "warning: task is given as rte and as cola: the last one counts"),
        (["train.lr=1e-3", "++train.lr=2e-3"], "warning: train.lr is given as 1e-3 and as 2e-3: the last one counts"),
        (["seed=1", "seed=1"], ""),
    ],
)
def test_a_setting_given_twice_is_told(arguments: list[str], line: str, bench: Callable[..., Told]) -> None:
    told = bench("--cfg", "job", *arguments)
    assert told.code == 0 and told.err.strip() == line
