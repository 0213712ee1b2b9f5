"""Tokens, home folders and the user's name: planted, and looked for in all that commands leave behind and print."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lora2_bench.errors import UserError
from lora2_bench.records.scrub import hide_secrets, scrub
from lora2_bench.sweep.batches import Batch, read_batch, write_failure
from lora2_bench.sweep.options import parse
from lora2_bench.tracking import publish
from tests.conftest import Told
from tests.runner.test_run import QUICK, Folders, tiny

USER, TOKEN, PASSWORD = "al1ce9", "canaryTokenOfNoKnownForm", "canaryPassword"
GITHUB = "ghp_" + "c4n4ry" * 6
CANARIES = re.compile(rf"{USER}|{TOKEN}|{PASSWORD}|{GITHUB}".encode())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The planted account: its home, with a working folder that the test is in, its name and its tokens."""
    folder = tmp_path / USER
    (folder / "work").mkdir(parents=True)
    for name, value in {"HOME": str(folder), "USER": USER, "HF_TOKEN": TOKEN, "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://bob:{PASSWORD}@127.0.0.1:9")
    monkeypatch.chdir(folder / "work")
    return folder


def leaks(folder: Path) -> dict[str, set[bytes]]:
    """File below `folder` -> the canaries in it, its name included."""
    found = {}
    for path in folder.rglob("*"):
        text = str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
        if hits := set(CANARIES.findall(text)):
            found[str(path.relative_to(folder))] = hits
    return found


@pytest.mark.slow
def test_no_file_of_a_run_or_a_multirun_tells_who_ran_it(
    bench: Callable[..., Told], tiny_folders: Folders, home: Path
) -> None:
    (home / "tiny").symlink_to(tiny_folders("bert"))
    quick = (*tiny(home / "tiny"), *QUICK, "method=bitfit")
    results = home / "work" / "r"
    runs = [
        (f"results={results}", "tracker=wandb", f"tracker.tags=['{home}/x']"),
        (f"results=../../{USER}/work/r", "seed=1"),
        ("-m", f"results={results}", "seed=2,3"),
    ]
    for run in runs:
        told = bench(*quick, *run)
        assert told.code == 0, told.err
    assert len(list(results.glob("cells/*/record.json"))) == 4
    assert list(results.glob("multirun/*/multirun.yaml")) and list(results.rglob("debug.log"))
    assert list(results.rglob("*.wandb"))
    assert leaks(results) == {}


@pytest.mark.parametrize("secret", [TOKEN, GITHUB, "https://bob:pass@x.y/z", f"https://x.y/?api_key={TOKEN}"])
@pytest.mark.parametrize("setting", ["project='{}'", "group='{}'", "tags=['{}']"])
def test_a_token_in_place_of_a_name_is_refused_and_not_printed(
    setting: str, secret: str, bench: Callable[..., Told], home: Path
) -> None:
    told = bench("tracker=wandb", f"tracker.{setting.format(secret)}", f"results={home / 'r'}")
    assert told.code == 2 and told.out == "" and told.err.count("\n") == 1
    assert "holds what looks like a token or a password: give a name" in told.err
    assert secret not in told.err and not (home / "r").exists()


def test_publish_takes_no_token_for_a_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["publish", "--results", str(home), "--project", TOKEN])
    with pytest.raises(SystemExit) as stop:
        publish.main()
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1 and TOKEN not in line


def test_an_error_line_hides_a_token(bench: Callable[..., Told], home: Path) -> None:
    for argument in (f"task={TOKEN}", f"nosuch={GITHUB}", f"+x=https://bob:{PASSWORD}@x.y/z"):
        told = bench(argument, f"results={home / 'r'}")
        assert told.code == 2 and told.err.count("\n") == 1
        assert not CANARIES.search(told.err.encode()), told.err


def test_a_sweeps_files_have_a_tilde_where_its_worker_needs_the_home(home: Path) -> None:
    options, overrides = parse([f"model.path={home}/tiny", f"results='{home}/a b'", "seed=1,2", f"data.dir={home}"])
    assert overrides == ("model.path='~/tiny'", "results='~/a b'", "seed=1,2", "data.dir='~'")
    results = home / "work" / "r"
    jobs = [{"a": list(overrides)}]
    path = Batch("x-1of1", "local", 1.0, str(Path.cwd()), str(results), 1, 1, jobs).write(results / "sweeps" / "x")
    write_failure(results / "sweeps" / "x", "a", f"{home}/file: token={TOKEN}", killed=False)
    assert leaks(results) == {}
    batch = read_batch(path)
    assert (batch.cwd, batch.results) == (str(home / "work"), str(results)) and options.cluster == "local"


def test_names_of_user_and_host_go_and_words_of_the_configs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-17.lab.example")
    monkeypatch.setenv("USER", "lora")
    assert scrub("recipe=minilm/lora node-17 on node-17.lab.example") == "recipe=minilm/lora host on host"
    monkeypatch.setenv("USER", USER)
    assert scrub(f"results=../{USER}/r {USER}2") == f"results=../user/r {USER}2"


@pytest.mark.parametrize(
    "text", ["seed=3", "token_type_ids=7", "train.max_length=128", "../shared/glue", "https://x.y/z"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide_secrets(text) == text


@pytest.mark.parametrize("field", ["model.sha256", "model.revision"])
def test_a_digest_is_shown_where_it_is_one_and_hidden_elsewhere(field: str) -> None:
    digest = "0123456789abcdef" * (4 if field == "model.sha256" else 3)
    line = f"{field}={digest} is not possible: {field} must be {digest}, or null"
    assert hide_secrets(line) == line and scrub(f"{field}='{digest}'") == f"{field}='{digest}'"
    assert hide_secrets(f"tracker.project={digest} {digest}") == "tracker.project=*** ***"


def test_an_error_names_the_digest_of_a_backbone(
    bench: Callable[..., Told], tiny_folders: Folders, tmp_path: Path
) -> None:
    told = bench(*tiny(tiny_folders("bert")), f"model.sha256={'1' * 64}", f"results={tmp_path}")
    wanted = (
        rf"error: model\.sha256={'1' * 64} is not possible: model\.sha256 must be [0-9a-f]{{64}}, the digest of .+\n"
    )
    assert told.code == 2 and re.fullmatch(wanted, told.err), told.err


def test_a_plan_with_a_token_is_refused() -> None:
    from lora2_bench.experiment.plan import RunOptions

    with pytest.raises(UserError, match="looks like a token"):
        RunOptions(Path("r"), tracker={"name": "wandb", "project": "p", "tags": [GITHUB], "group": None})
    assert os.environ.get("HF_TOKEN") != TOKEN
