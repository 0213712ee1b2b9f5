"""scripts/slurm_passed.sh: when CI runs the tests on a real Slurm. It needs none itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "slurm_passed.sh"
FILES = (
    "lora2_bench/sweep/job.py",
    "lora2_bench/runner/run.py",
    "lora2_bench/records/store.py",
    "scripts/slurm_test_cluster.sh",
    "tests/slurm/test_slurm.py",
    "lora2_bench/report/page.py",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository with the paths that count, and one that does not."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "one")):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)
    return tmp_path


def call(checkout: Path, *words: str) -> tuple[int, str]:
    """The script's exit status and its last line, in that repository."""
    environment = {**os.environ, "SLURM_PASSED_ROOT": str(checkout)}
    done = subprocess.run([SCRIPT, *words], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout.strip().splitlines() or [""])[-1]


def passes(checkout: Path, summary: str, status: int = 0) -> tuple[int, str]:
    """`slurm_passed.sh test` with a command that leaves this summary as its report, and ends so."""
    fake = f"""echo '<testsuite {summary}>' > "${{0#--junitxml=}}"; exit {status}"""
    return call(checkout, "test", "bash", "-c", fake)


def test_it_runs_until_it_has_passed_and_again_after_a_change_that_counts(checkout: Path) -> None:
    assert call(checkout, "needed") == (0, "make test-slurm runs: no .ci/slurm-passed tells what passed it")
    assert passes(checkout, 'tests="9" skipped="0"') == (0, "passed: .ci/slurm-passed says so (commit it)")
    code, line = call(checkout, "needed")
    assert code == 3 and line.startswith("make test-slurm does not run: nothing that it tests has changed")
    (checkout / FILES[-1]).write_text("two\n")
    assert call(checkout, "needed")[0] == 3
    for name in FILES[:-1]:
        (checkout / name).write_text("two\n")
        path = name if name.startswith("scripts") else str(Path(name).parent)
        assert call(checkout, "needed") == (0, f"make test-slurm runs: changed since it last passed: {path}")
        (checkout / name).write_text("one\n")
    (checkout / "lora2_bench/sweep/added.py").write_text("")
    assert call(checkout, "needed")[1].endswith(": lora2_bench/sweep")
    assert subprocess.run(["git", "diff", "--cached", "--quiet"], cwd=checkout, check=False).returncode == 0


def test_only_a_whole_pass_is_kept(checkout: Path) -> None:
    assert passes(checkout, 'tests="9" skipped="9"') == (0, "not all tests ran: .ci/slurm-passed stays as it is")
    assert passes(checkout, 'tests="0" skipped="0"')[0] == 0
    assert passes(checkout, 'tests="9" skipped="0"', status=1)[0] == 1
    assert not (checkout / ".ci" / "slurm-passed").exists()


def test_without_a_command_it_tells_its_use(checkout: Path) -> None:
    assert call(checkout)[0] == 2
