"""The documentation's examples, run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import lora2_bench
from scripts.keep_exhibit import keep

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ADDING_A_METHOD.md"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a copy of the checkout, which must be what is imported there."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


# One process for both: most of its time goes to imports.
BOTH = """
import sys
import pytest
from lora2_bench.__main__ import main

main()
sys.exit(pytest.main("-p no:cacheprovider -p no:xdist tests/methods/test_contract.py -k lora_fa".split()))
"""


@pytest.mark.slow
def test_the_added_method_is_two_files_that_run_and_pass_the_contract(
    tiny_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("conf", "lora2_bench", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "lora_fa.*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = re.findall(
        r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert [Path(name).suffix for name, _ in files] == [".py", ".yaml"]
    for name, text in files:
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text, encoding="utf-8")

    quick = ("data.max_train=32", "data.max_eval=16", "train.max_steps=4", "train.max_length=48", "device=cpu")
    backbone = ("model=local", f"model.path={tiny_folders('roberta')}")
    done = run(tmp_path, "-c", BOTH, "method=lora_fa", "kr=2", *backbone, *quick, "results=out")
    assert re.search(r"^rte .*\| lora_fa r=2 \|", done.stdout, re.MULTILINE), done.stdout[-3000:]
    trained = (24 * 4 + 40 + 24) * 2 * 2  # B alone: d_out of the six maps, two layers, rank 2
    assert f"{trained} adapter parameters" in done.stdout
    assert len(list((tmp_path / "out" / "cells").glob("*/adapter/adapter_model.safetensors"))) == 1
    assert re.search(r"\b[3-9]\d passed", done.stdout), done.stdout[-500:]


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    text = (ROOT / "docs" / "DEPENDENCIES.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"[\w-]+", " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("|")))
    )
    assert {re.split(r"[<>=]", one)[0] for one in wanted} <= named
    assert "(DEPENDENCIES.md)" in (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")


# Of the schema of the Citation File Format 1.2.0: keys of a file and of a reference, as far as they are used here.
CFF_FILE = {
    "cff-version",
    "message",
    "title",
    "type",
    "abstract",
    "authors",
    "version",
    "license",
    "keywords",
    "references",
}
CFF_REFERENCE = {
    "type",
    "status",
    "title",
    "authors",
    "journal",
    "volume",
    "start",
    "year",
    "month",
    "doi",
    "url",
    "notes",
}


def test_the_citation_is_one_of_the_format() -> None:
    values = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert values.keys() <= CFF_FILE and {"cff-version", "message", "title", "authors"} <= values.keys()
    assert (values["cff-version"], values["type"]) == ("1.2.0", "software")
    assert (values["version"], values["license"]) == (lora2_bench.__version__, "Apache-2.0")
    journal, preprint = values["references"]
    for one in (journal, preprint):
        assert one.keys() <= CFF_REFERENCE and {"type", "title", "authors"} <= one.keys()
        assert all(author.keys() == {"family-names", "given-names"} for author in one["authors"])
    assert (journal["journal"], journal["volume"], journal["start"], journal["year"]) == (
        "Neurocomputing",
        650,
        130859,
        2025,
    )
    assert (journal["doi"], preprint["doi"]) == ("10.1016/j.neucom.2025.130859", "10.48550/arXiv.2408.06854")
    assert preprint["status"] == "preprint"


STUDIES = ROOT / "results" / "studies"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm_glue", "minilm_parts"])
def test_a_study_shows_what_its_command_tells_of_its_records(name: str, tmp_path: Path) -> None:
    study, again = STUDIES / name, tmp_path / "studies" / name
    shutil.copytree(study, again)
    figures = sorted(path.relative_to(study) for path in study.glob("figures/*.svg"))
    assert Path("figures/differences.svg") in figures
    run(ROOT, "-m", "lora2_bench.tune", f"study={name}", "stage=tables", f"results={tmp_path}")
    tables = ("summary.md", "FINDINGS.md", "ledger.csv", "runs.csv", "curves.csv", "rates.csv")
    for path in (*tables, *figures):  # a figure of other data is drawn anew
        assert (again / path).read_text(encoding="utf-8") == (study / path).read_text(encoding="utf-8"), path


def test_the_front_page_shows_the_study_as_its_summary_does() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- results/studies/minilm_glue/summary.md -->\n(.*?)<!-- its end -->", text, re.DOTALL)
    assert shown == [(STUDIES / "minilm_glue" / "summary.md").read_text(encoding="utf-8")]


EXHIBIT = STUDIES / "forgetting"


def test_the_page_on_retention_shows_the_exhibit_as_its_cells_tell_it(tmp_path: Path) -> None:
    shutil.copytree(EXHIBIT, tmp_path / "studies" / "forgetting")
    (tmp_path / "studies" / "forgetting" / "minilm-local.md").unlink()
    for path in keep("forgetting", tmp_path, tmp_path, ()):
        if path.suffix != ".svg":  # whose last digits are a machine's own
            assert path.read_bytes() == (EXHIBIT / path.name).read_bytes(), path.name
    text = (EXHIBIT / "minilm-local.md").read_text(encoding="utf-8")
    parts = []
    for task, claim in re.findall(r"(?ms)^## (\w+), protocol clean\n.*?^### (.*?)(?=^## |\Z)", text):
        shown = [line for line in claim.splitlines() if line.startswith(("|", "Of "))]
        table = [line for line in shown if line.startswith("|")]
        notes = shown[len(table) :]
        parts.append("\n".join([f"{task}:", "", *table, *(part for note in notes for part in ("", note)), ""]))
    page = (ROOT / "docs" / "RETENTION.md").read_text(encoding="utf-8")
    told = re.findall(r"<!-- results/studies/forgetting/minilm-local.md -->\n(.*?)<!-- its end -->", page, re.DOTALL)
    assert len(parts) == 2 and told == ["\n".join(parts)]
