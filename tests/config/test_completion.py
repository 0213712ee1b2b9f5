"""Tab completion in a real bash, by the script that the command prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
eval "$(lora2-bench --shell-completion install=bash)"
complete -p lora2-bench | grep -q hydra_bash_completion || exit 9
COMP_CWORD=1
for COMP_LINE in "lora2-bench task=r" "lora2-bench +experiment=cola"; do
    hydra_bash_completion && echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_groups_and_their_choices(tmp_path: Path) -> None:
    command = tmp_path / "lora2-bench"  # what pip installs
    lines = [f"#!{sys.executable}", "from lora2_bench.__main__ import main", "main()", ""]
    command.write_text("\n".join(lines), encoding="utf-8")
    command.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    package = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["bash", "--norc", "-c", SCRIPT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": package},
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["task=rte", "+experiment=cola_lora_vs_lora2"]
