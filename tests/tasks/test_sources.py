"""Dispatch over the three sources, and imports that stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lora2_bench.errors import UserError
from lora2_bench.tasks import hub, sources
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.spec import TASKS, TaskSpec

ROOT = Path(__file__).resolve().parents[2]
CONTENT = b"index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n"


def write_rte(folder: Path, rows: int = 1) -> Path:
    (folder / "RTE").mkdir(parents=True)
    for name in ("train", "dev"):
        (folder / "RTE" / f"{name}.tsv").write_bytes(CONTENT + b"1\tC.\tD.\tentailment\n" * (rows - 1))
    return folder


def test_local_takes_the_argument_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = write_rte(tmp_path / "one"), write_rte(tmp_path / "two", rows=2)
    monkeypatch.setenv("GLUE_DIR", str(one))
    assert sources.load_task("rte", "local").rows["train"] == 1
    assert sources.load_task("rte", "local", glue_dir=str(two)).rows["train"] == 2


def test_local_without_a_folder_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLUE_DIR", raising=False)
    with pytest.raises(UserError, match=r"GLUE_DIR or data\.dir="):
        sources.load_task("rte", "local")


def test_mini_is_made_from_the_seed() -> None:
    data = sources.load_task("rte", "mini", mini_seed=1)
    assert (data.source, data.is_official) == ("mini", False)
    assert list(data.splits) == list(TASKS["rte"].splits)
    assert data.content_hash() == sources.load_task("rte", "mini", mini_seed=1).content_hash()
    assert data.content_hash() != sources.load_task("rte", "mini", mini_seed=2).content_hash()


def test_hub_is_asked_for_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_hub(spec: TaskSpec) -> TaskData:
        return TaskData(spec, "hub", {split: Split({}, []) for split in spec.splits})

    monkeypatch.setattr(hub, "load_hub", load_hub)
    data = sources.load_task("mnli", "hub")
    assert (data.source, data.spec) == ("hub", TASKS["mnli"])


def test_unknown_names_list_the_allowed_ones() -> None:
    with pytest.raises(UserError, match=r"data=web is not a source .*mini, local, hub"):
        sources.load_task("rte", "web")
    with pytest.raises(UserError, match=r"task=snli .*cola, sst2"):
        sources.load_task("snli", "local")


def test_importing_the_sources_loads_no_heavy_library() -> None:
    code = (
        "import sys, lora2_bench.tasks.sources, lora2_bench.tasks.local, lora2_bench.tasks.hub;"
        "print([name for name in ('datasets', 'pyarrow', 'huggingface_hub', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
