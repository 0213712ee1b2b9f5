"""Standard streams that are closed, full, left by their reader or of an ASCII terminal: the work is done, in order."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from lora2_bench.files.console import console
from lora2_bench.records.store import Store
from lora2_bench.report import __main__ as report_entry
from tests.made_records import make_cell, make_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for seed in range(2):
        Store(tmp_path / "r").write(make_record(make_cell(seed=seed)))
    return tmp_path / "r"


def broken() -> int:
    """A descriptor whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.fixture
def ending(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[Any, str]]]:
    """Run an action within `console` and with this standard output; returns its exit code and what stderr got."""
    opened: list[TextIO] = []

    def run(descriptor: int, action: Callable[[], object], encoding: str = "utf-8") -> tuple[Any, str]:
        opened.append(os.fdopen(descriptor, "w", encoding=encoding))
        monkeypatch.setattr(sys, "stdout", opened[-1])
        try:
            with console():
                action()
        except SystemExit as stop:
            return stop.code, capfd.readouterr().err
        return 0, capfd.readouterr().err

    yield run
    for stream in opened:
        stream.close()  # what it still holds must not end in an error


def test_a_library_that_asks_for_an_unused_package_is_not_heard(caplog: pytest.LogCaptureFixture) -> None:
    with console():
        logging.getLogger("bitsandbytes.backends.cpu.ops").warning("pip install kernels")
        logging.getLogger("another").warning("heard")
    assert caplog.messages == ["heard"]


def report(what: str, results: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setattr(sys, "argv", ["report", what, "--results", str(results)])
    return report_entry.main


@pytest.mark.parametrize("what", ["tables", "audit"])
@pytest.mark.parametrize(
    ("descriptor", "code", "told"),
    [(broken, 0, ""), (full, 1, "error: the output cannot be written (No space left on device): give it more room\n")],
    ids=["head", "full"],
)
def test_a_reports_files_are_written_whoever_reads(
    descriptor: Callable[[], int],
    code: int,
    told: str,
    what: str,
    ending: Callable[..., tuple[Any, str]],
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ending(descriptor(), report(what, results, monkeypatch)) == (code, told)
    assert list((results / what).rglob("*.md"))


@pytest.mark.parametrize("descriptor", [broken, full])
def test_a_loop_that_prints_goes_on_to_its_end(
    descriptor: Callable[[], int], ending: Callable[..., tuple[Any, str]]
) -> None:
    done = []

    def work() -> None:
        for number in range(2000):
            print("x" * 100, flush=number % 2 == 0)
            done.append(number)

    code, _ = ending(descriptor(), work)
    assert len(done) == 2000 and code == (descriptor is full)


@pytest.mark.parametrize(("descriptor", "code"), [(broken, 2), (full, 2)])
def test_an_error_keeps_its_exit_code(
    descriptor: Callable[[], int], code: int, ending: Callable[..., tuple[Any, str]]
) -> None:
    def fail() -> None:
        print("x" * 100_000)
        print("error: bad", file=sys.stderr)
        sys.exit(2)

    assert ending(descriptor(), fail) == (code, "error: bad\n")


def test_a_bug_keeps_its_traceback(ending: Callable[..., tuple[Any, str]]) -> None:
    with pytest.raises(ZeroDivisionError):
        ending(broken(), lambda: 1 / 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_signs_that_a_terminal_lacks_are_written_plainly(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        monkeypatch.setattr(sys, name, stream)
        with console():
            print("LoRA² 1.0 ± 0.2 → ≤ 64×64 \udcff Ωé", file=getattr(sys, name))
        stream.flush()
        assert stream.errors == "strict"
        text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        wanted = {
            "ascii": "LoRA2 1.0 +- 0.2 -> <= 64x64 \\udcff \\u03a9\\xe9\n",
            "latin-1": "LoRA² 1.0 ± 0.2 -> <= 64×64 \\udcff \\u03a9é\n",
            "utf-8": "LoRA² 1.0 ± 0.2 → ≤ 64×64 \\udcff Ωé\n",
        }
        assert text == wanted[encoding]


@pytest.mark.parametrize("what", ["tables", "audit"])
def test_a_report_is_printed_on_an_ascii_terminal(
    what: str, results: Path, tmp_path: Path, ending: Callable[..., tuple[Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    assert ending(out, report(what, results, monkeypatch), encoding="ascii") == (0, "")
    sys.stdout.flush()
    text = (tmp_path / "out").read_text("ascii")
    assert "written: " in text and "\\x" not in text and "\\u" not in text
    assert any(
        not path.read_text("utf-8").isascii() for path in (results / what).rglob("*.md")
    )  # files stay as they are


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PY": sys.executable, **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ('"$PY" -m lora2_bench.report audit --results . | head -1', 0, ""),
        ('"$PY" -m lora2_bench.report audit --results . >&-', 0, ""),
        ('"$PY" -m lora2_bench.report audit --results . <&- >&- 2>&-', 0, ""),
        (
            '"$PY" -m lora2_bench.report audit --results . >/dev/full',
            1,
            "error: the output cannot be written (No space",
        ),
        ('"$PY" -m lora2_bench.report foo 2>&-', 2, ""),
        ('"$PY" -m lora2_bench.sweep --help >/dev/full', 1, "error: the output cannot be written (No space left on"),
        ('"$PY" -m lora2_bench seed=-1 >&-', 2, "error: seed=-1 is not possible"),
    ],
)
def test_real_streams_end_so_too(line: str, code: int, err: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == code, done
    assert done.stderr.startswith(err) and done.stderr.count("\n") == bool(err), done.stderr
    if "audit" in line:
        assert (tmp_path / "audit" / "audit.md").is_file()


def test_help_is_printed_on_an_ascii_terminal(tmp_path: Path) -> None:
    done = shell('"$PY" -m lora2_bench --help', tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "GLUE study of LoRA2" in done.stdout and done.stdout.isascii()
