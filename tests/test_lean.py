"""Imports of transformers that skip what no cell uses offer all that they skip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora2_bench.files import lean

PROBE = """
import contextlib, json, sys
from lora2_bench.files import lean
with lean.lean_imports() if sys.argv[1] == "lean" else contextlib.nullcontext():
    import transformers.modeling_utils, transformers.models
    from transformers.loss.loss_for_object_detection import linear_sum_assignment
during = "scipy.optimize._optimize" in sys.modules
import scipy.optimize
from transformers import BertModel, WhisperModel
print(json.dumps({
    "names": [sorted(dir(transformers)), sorted(dir(transformers.models))],
    "loaded": during,
    "own": scipy.optimize.minimize.__module__,
    "solved": [x.tolist() for x in linear_sum_assignment([[4, 1], [2, 8]])],
    "bert": BertModel.__module__,
    "finders": [type(one).__name__ for one in sys.meta_path if type(one).__module__ == lean.__name__],
}))
"""


def probe(way: str, cache: Path) -> dict[str, object]:
    """What a fresh interpreter tells of its imports."""
    environment = {**os.environ, "LORA2_BENCH_CACHE": str(cache)}
    command = [sys.executable, "-c", PROBE, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plain(cache: Path) -> dict[str, object]:
    return probe("plain", cache)


@pytest.mark.slow
def test_nothing_is_lost_and_the_optimisers_wait_for_their_use(plain: dict[str, object], cache: Path) -> None:
    first = probe("lean", cache)
    (kept,) = (cache / "imports").iterdir()
    written = kept.stat().st_mtime_ns
    again = probe("lean", cache)
    assert kept.stat().st_mtime_ns == written
    assert plain["loaded"] is True
    assert first == again == {**plain, "loaded": False}
    assert first["solved"] == [[0, 1], [1, 0]]


def test_a_broken_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA2_BENCH_CACHE", str(tmp_path / "cache"))
    models, scanner = tmp_path / "models", tmp_path / "scanner.py"
    found = {"bert": {frozenset({"torch"}): {"m": {"A", "B"}}}}
    models.mkdir()
    scanner.write_text("")
    scans = []

    def scan(folder: Path) -> lean.Structure:
        scans.append(folder)
        return found

    assert [lean._from_cache(scan, models, scanner) for _ in range(2)] == [found, found] and len(scans) == 1
    (kept,) = (tmp_path / "cache" / "imports").iterdir()
    for broken in ("", "[]", '{"files": 1}', kept.read_text()[:-9]):
        kept.write_text(broken)
        assert lean._from_cache(scan, models, scanner) == found
        assert lean._decoded(json.loads(kept.read_text())) == found
    assert len(scans) == 5


def test_a_stamp_is_of_every_file_and_of_the_scanner(tmp_path: Path) -> None:
    models, scanner = tmp_path / "models", tmp_path / "scanner.py"
    (models / "bert" / "__pycache__").mkdir(parents=True)
    inside = models / "bert" / "modeling_bert.py"
    for path in (scanner, inside):
        path.write_text("a")
    stamps = [lean._stamp(models, scanner)]
    (models / "bert" / "__pycache__" / "x.pyc").write_text("a")
    assert lean._stamp(models, scanner) == stamps[0]
    for change in (
        lambda: inside.write_text("ab"),
        lambda: os.utime(inside, ns=(1, 1)),
        lambda: (models / "new.py").write_text("a"),
        lambda: scanner.write_text("ab"),
        lambda: inside.rename(models / "bert" / "other.py"),
    ):
        change()
        stamps.append(lean._stamp(models, scanner))
    assert len({*stamps}) == len(stamps)
