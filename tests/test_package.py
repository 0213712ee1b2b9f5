"""What is installed: a wheel that carries its configs and runs from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import lora2_bench
from lora2_bench.config.compose import CONF

ROOT = Path(__file__).resolve().parent.parent
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str, cwd: Path, pythonpath: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    if pythonpath is not None:
        environment["PYTHONPATH"] = str(pythonpath)
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the files that make it: the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", METADATA["readme"], *METADATA["license-files"]):
        shutil.copy2(ROOT / name, source)
    for name in ("lora2_bench", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), cwd=source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.wheel
def test_the_wheel_runs_from_any_folder_with_its_own_configs(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(installed),
        str(wheel),
        cwd=tmp_path,
    )
    code = "import lora2_bench.files.paths as p; print(p.__file__); print(p.CONF)"
    module, conf = run("-c", code, cwd=elsewhere, pythonpath=installed).stdout.split()
    assert Path(module).is_relative_to(installed), "the installed copy must be the one that runs"
    assert Path(conf) == installed / "lora2_bench" / "conf"
    done = run(
        "-m", "lora2_bench", "--cfg", "job", "--resolve", "task=cola", "kr=8", cwd=elsewhere, pythonpath=installed
    )
    shown = yaml.safe_load(done.stdout)
    assert (shown["task"]["name"], shown["method"]["k"], shown["train"]["batch_size"]) == ("cola", 8, 32)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.wheel
def test_the_wheel_carries_every_config_module_printed_figure_and_page_template_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt"))
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lora2_bench").rglob("*.py")}
    configs = {f"lora2_bench/conf/{path.relative_to(CONF).as_posix()}" for path in CONF.rglob("*.yaml")}
    figures = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lora2_bench" / "paper").glob("*.csv")}
    parts = ("page.html", "page.css", "page.js", "cells.js", "plots.js", "tables.js", "versus.js")
    page = {f"lora2_bench/report/page/{part}" for part in parts}
    page |= {f"lora2_bench/serving/http/page.{end}" for end in ("html", "css", "js")}
    assert figures
    text = {"lora2_bench/retention/text.txt"}
    assert packed == modules | configs | figures | page | text
    assert "lora2-bench = lora2_bench.__main__:main" in entry


@pytest.mark.wheel
def test_the_version_is_one_number(wheel: Path) -> None:
    assert wheel.name == f"lora2_bench-{lora2_bench.__version__}-py3-none-any.whl"
