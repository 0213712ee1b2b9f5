"""The commands of `lora2-bench`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import lora2_bench
from lora2_bench.__main__ import main
from lora2_bench.report.__main__ import main as report_main
from lora2_bench.sweep.status import main as status_main
from lora2_bench.verbs import VERBS
from tests.conftest import Told

Call = Callable[..., Told]


def test_the_installed_script_is_the_module_s_own_entry() -> None:
    (script,) = entry_points(group="console_scripts", name="lora2-bench")
    assert script.load() is main


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "run"])
def test_each_command_has_help_of_its_own(verb: str, call: Call) -> None:
    told = call(main, verb, "--help")
    assert (told.code, told.err) == (0, "")
    assert verb in told.out and "lora2-bench" in told.out and "python -m" not in told.out.splitlines()[0]
    assert call(main, "help", verb).out == told.out
    assert f"  {verb}" in call(main, "help").out


def test_help_of_a_run_names_the_other_commands(call: Call) -> None:
    told = call(main, "help", "run")
    assert told.code == 0 and "Choices (GROUP=NAME)" in told.out and "lora2-bench help" in told.out


def test_no_word_at_all_lists_the_commands(call: Call) -> None:
    assert call(main) == call(main, "help")


def test_version(call: Call) -> None:
    assert call(main, "--version") == Told(0, f"lora2-bench {lora2_bench.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tabels"], "tabels is no command: did you mean tables?; a setting is given as NAME=VALUE"),
        (["help", "sweeps"], "sweeps is no command: did you mean sweep?; a setting is given as NAME=VALUE"),
        (["x"], f"x is no command: choose one of {', '.join(VERBS)}, help; a setting is given as NAME=VALUE"),
        (["tables", "--resluts", "x"], "--resluts is not an option: did you mean --results?"),
        (["status", "suite=foo"], "suite=foo is not known: choose one of "),
        (["run", "seed=-1"], "seed=-1 is not possible"),
        (["seed=-1"], "seed=-1 is not possible"),
        (["figures", "tables"], "tables is one argument too many: leave it out"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], line: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = call(main, *words)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith(f"error: {line}") and told.err.count("\n") == 1


def test_a_command_does_what_its_older_form_does(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = call(main, "audit", "--results", "a")
    assert (
        told.code == 0
        and told.out.replace("written: a/", "written: b/") == call(report_main, "audit", "--results", "b").out
    )
    assert [path.name for path in sorted(Path("a/audit").iterdir())] == ["audit.csv", "audit.md"]
    words = ("suite=smoke", "seed=0", "results=a")
    assert call(main, "status", *words) == call(status_main, *words)
    Path("empty").mkdir()
    assert "No finished cell yet" in call(main, "tables", "--results", "empty").out
