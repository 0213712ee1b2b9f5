"""The `hub` source against a stub hub on the loopback: download, cache, loading without it, and its absence."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import datasets
import pytest

from lora2_bench.errors import UserError
from lora2_bench.tasks.hub import HUB_ID, HUB_REVISION
from lora2_bench.tasks.spec import TASKS

ROOT = Path(__file__).resolve().parents[2]
MODEL_ID, MODEL_REVISION = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"
TEXTS = {"train": ["A.", "C.", "E."], "validation": ["G.", "I."], "test": ["K."]}
# Prints the outcome as a user would see it: row counts and hash, or the one line of the error.
LOAD = """
from lora2_bench.errors import UserError
from lora2_bench.tasks.sources import load_task
try:
    data = load_task("rte", "hub")
except UserError as error:
    print("UserError:", error)
else:
    print(data.source, data.rows, data.splits["train"].texts["sentence1"], data.splits["dev"].labels, data.notes)
"""
LOAD_TEST = """
from lora2_bench.errors import UserError
from lora2_bench.tasks.sources import load_test_rows
try:
    print(load_test_rows("rte", "hub"))
except UserError as error:
    print("UserError:", error)
"""
LOADED = "hub {'train': 3, 'dev': 2} ['A.', 'C.', 'E.'] [0, 1] []"


class StubHub:
    """The few answers of the hub's HTTP interface that a pinned download needs, and a log of what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, tuple[str, dict[str, bytes]]] = {}  # "datasets/id" -> (revision, path -> content)
        self.requests: list[str] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.requests.append(f"{self.command} {self.path}")
                status, headers, body = stub.answer(unquote(urlsplit(self.path).path))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        for repository, (revision, files) in self.repositories.items():
            if path == f"/api/{repository}/tree/{revision}":
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()
            prefix = f"/{repository.removeprefix('models/')}/resolve/{revision}/"
            if path.startswith(prefix) and path.removeprefix(prefix) in files:
                data = files[path.removeprefix(prefix)]
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                return 200, {"ETag": etag, "X-Repo-Commit": revision}, data
        return 404, {}, b""

    @property
    def downloads(self) -> set[str]:
        """Names of the files whose content was sent."""
        return {line.rsplit("/", 1)[1] for line in self.requests if line.startswith("GET") and "/resolve/" in line}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def rte_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The hub's files for RTE, with rows made here; train lies in two shards."""
    folder = tmp_path_factory.mktemp("rte")
    text, label = datasets.Value("string"), datasets.ClassLabel(names=list(TASKS["rte"].labels))
    features = datasets.Features({"sentence1": text, "sentence2": text, "label": label, "idx": datasets.Value("int32")})
    files = {"README.md": b"not a data file"}
    for split, texts in TEXTS.items():
        count = len(texts)
        labels = [-1] * count if split == "test" else [index % 2 for index in range(count)]
        columns = {"sentence1": texts, "sentence2": ["B."] * count, "label": labels, "idx": list(range(count))}
        whole = datasets.Dataset.from_dict(columns, features=features)
        shards = 2 if split == "train" else 1
        for index in range(shards):
            name = f"{split}-{index:05d}-of-{shards:05d}.parquet"
            whole.shard(shards, index, contiguous=True).to_parquet(folder / name)
            files[f"rte/{name}"] = (folder / name).read_bytes()
    return files


@pytest.fixture
def stub(rte_files: dict[str, bytes]) -> Iterator[StubHub]:
    hub = StubHub()
    hub.repositories[f"datasets/{HUB_ID}"] = (HUB_REVISION, rte_files)
    yield hub
    hub.close()


def run(code: list[str], home: Path, endpoint: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: the hub's client reads its environment on import."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS"))
    }
    paths = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    environment = {**kept, **paths, "HF_HUB_DISABLE_TELEMETRY": "1", **extra}
    return subprocess.run(
        [sys.executable, *code],
        cwd=home.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def load(home: Path, endpoint: str, code: str = LOAD, **extra: str) -> str:
    done = run(["-c", code], home, endpoint, **extra)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_download_then_cache_then_repair_then_no_hub(stub: StubHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert load(home, stub.endpoint) == LOADED
    # The labelled splits only: neither the README nor the test split.
    train = {f"train-0000{index}-of-00002.parquet" for index in range(2)}
    assert stub.downloads == {*train, "validation-00000-of-00001.parquet"}

    # A shard is lost: the cached part must not pass for the whole, and only the shard is fetched again.
    (lost,) = home.glob("hub/*/snapshots/*/rte/train-00001-*")
    lost.resolve().unlink()
    lost.unlink()
    # Older clients keep no list of the repository's files, from which the newer ones see that something is missing.
    (file_list,) = home.glob("hub/*/trees/*")
    file_list.unlink()
    stub.requests.clear()
    assert load(home, stub.endpoint) == LOADED
    assert stub.downloads == {lost.name}

    stub.close()
    assert load(home, stub.endpoint) == LOADED


def test_test_rows_are_fetched_where_they_are_asked_for(stub: StubHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    loaded = "{'test': Split(texts={'sentence1': ['K.'], 'sentence2': ['B.']}, labels=[-1])}"
    assert load(home, stub.endpoint, code=LOAD_TEST) == loaded
    assert stub.downloads == {"test-00000-of-00001.parquet"}
    done = run([str(ROOT / "scripts/prefetch.py"), "--tasks", "rte", "--models"], home, stub.endpoint)
    assert (done.returncode, done.stdout) == (0, f"{HUB_ID} rte: train 3, dev 2, test 1 rows\n")
    stub.close()
    assert load(home, stub.endpoint, code=LOAD_TEST) == loaded
    line = load(tmp_path / "other", stub.endpoint, code=LOAD_TEST)
    assert line.startswith(f"UserError: {HUB_ID} rte is not in the hub cache and could not be fetched (")


def test_a_hub_that_is_not_there_is_one_line_with_the_ways_out(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    done = run(["-c", LOAD], tmp_path / "home", endpoint)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"UserError: {HUB_ID} rte is not in the hub cache and could not be fetched ({endpoint}")
    for way in ("make prefetch", "GLUE_DIR", "data=local", "data=mini"):
        assert way in line
    assert done.stderr == ""


def test_offline_mode_makes_no_request(stub: StubHub, tmp_path: Path) -> None:
    line = load(tmp_path / "home", stub.endpoint, HF_HUB_OFFLINE="1")
    assert line.startswith("UserError:")
    assert "HF_HUB_OFFLINE is set" in line
    assert stub.requests == []


@pytest.mark.slow
def test_a_model_is_fetched_once_with_safetensors_or_else_its_old_weights(stub: StubHub, tmp_path: Path) -> None:
    wanted = {"config.json", "tokenizer.json", "merges.txt", "spm.model", "model.safetensors"}
    refused = {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/config.json"}
    old = {"config.json": b"{}", "pytorch_model.bin": b"x", "tf_model.h5": b"x"}
    stub.repositories[f"models/{MODEL_ID}"] = (MODEL_REVISION, {name: name.encode() for name in wanted | refused})
    stub.repositories["models/someone/old"] = (MODEL_REVISION, old)
    stub.repositories["models/someone/empty"] = (MODEL_REVISION, {"config.json": b"{}"})
    home = tmp_path / "home"

    def fetched(hub_id: str) -> str:
        code = (
            f"from lora2_bench.files.hub import model_snapshot; print(model_snapshot({hub_id!r}, {MODEL_REVISION!r}))"
        )
        done = run(["-c", code], home, stub.endpoint)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    for hub_id, files in ((MODEL_ID, wanted), ("someone/old", {"config.json", "pytorch_model.bin"})):
        snapshot = Path(fetched(hub_id))
        assert {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()} == files
    assert f"someone/empty at {MODEL_REVISION} has no config.json or no weights" in fetched("someone/empty")
    stub.close()
    assert Path(fetched(MODEL_ID)).is_dir() and Path(fetched("someone/old")).is_dir()
    assert "make prefetch" in fetched("someone/never")


def test_the_script_reports_an_absent_hub_in_one_line(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    done = run([str(ROOT / "scripts/prefetch.py"), "--tasks", "rte", "--models"], tmp_path / "home", endpoint)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"prefetch: nothing can be fetched ({endpoint}")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prefetch_script", ROOT / "scripts/prefetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_models_are_read_from_their_configs(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("source: hub\nhub_id: a/big\nrevision: abc\n")
    (tmp_path / "origin.yaml").write_text("source: package\nhub_id: a/origin\nrevision: null\n")
    (tmp_path / "folder.yaml").write_text("source: local\nhub_id: null\nrevision: null\npath: ???\n")
    assert script.hub_models(tmp_path) == {"big": ("a/big", "abc")}
    (tmp_path / "loose.yaml").write_text("source: hub\nhub_id: a/loose\nrevision: null\n")
    with pytest.raises(UserError, match=r"loose\.yaml: a/loose has no revision"):
        script.hub_models(tmp_path)


def test_an_unknown_model_is_an_error_that_lists_the_configs(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--models", "gpt9"]) == 2
    known = ", ".join(script.hub_models(script.MODEL_CONFIGS))
    assert known
    assert capsys.readouterr().err == f"prefetch: --models gpt9: choose from {known}\n"
