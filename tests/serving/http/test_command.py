"""`lora2-bench serve`: its refusals, and a real process on real adapters that is stopped in the middle of its work."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from lora2_bench.__main__ import main
from lora2_bench.errors import UserError
from lora2_bench.serving.http.guard import TOKEN_VARIABLE, Guard
from lora2_bench.serving.http.limits import Limits
from lora2_bench.serving.library import Entry
from tests.conftest import Told
from tests.forked import Forked, bench
from tests.serving.http.made import WHOLE, Shelf, Toy

Call = Callable[..., Told]
T = TypeVar("T")
SECRET = "a-secret-of-the-user"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--max-rows", "9", "--queue-rows", "8"], "--max-rows 9 is more than --queue-rows 8: give as many at most"),
        (["--port", "70000"], "--port 70000 is not possible: give a whole number from 0 to 65535"),
        (["--prot", "1"], "--prot is not an option: did you mean --port?"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid is no address of this machine"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached by others: give --token-file FILE or LORA2_BENCH_TOKEN"),
        (["--port", "{taken}"], "--port {taken} of 127.0.0.1 cannot be had (Address already in use): give another"),
        (["--token-file", "none"], "--token-file none cannot be read (No such file or directory): give a file"),
        (["--token-file", "short"], "--token-file short holds no token: give one of 16 to 512 signs"),
        (["--token-file", "foreign"], "--token-file foreign holds no token: give one of 16 or more"),
        (["--results", "empty"], "results=empty holds no record: run a cell, or name its results"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    words: list[str], line: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").write_text(SECRET[:9])
    (tmp_path / "foreign").write_text("é" * 30)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [word.format(taken=port) for word in words]
        told = call(main, "serve", *(["--port", "0"] if "--port" not in words else []), *given)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith(f"error: {line.format(taken=port)}") and told.err.count("\n") == 1, told.err
    assert SECRET[:9] not in told.err


def test_a_bad_token_of_the_environment_is_refused_and_not_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "my pass word is secret")
    told = call(main, "serve", "--port", "0")
    assert told.code == 2 and told.err.startswith(f"error: {TOKEN_VARIABLE} holds no token: ")
    assert "pass" not in told.err


def test_without_uvicorn_one_line_names_the_extra(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora2_bench.serving.http.command.find_spec", lambda name: None)
    told = call(main, "serve")
    assert told.err == "error: serve needs uvicorn, which is not installed: pip install 'lora2-bench[serve]'\n"
    assert told.code == 2


@pytest.fixture(scope="module")
def tiny(tiny_folders: Callable[[str], Path]) -> Path:
    return tiny_folders("bert")


@pytest.mark.slow
def test_a_process_stopped_in_the_middle_answers_all_that_it_accepted(
    tiny: Path, bench: Callable[..., Told], tmp_path: Path
) -> None:
    results, token = tmp_path / "results", tmp_path / "token"
    token.write_text(SECRET + "\n")
    token.chmod(stat.S_IRUSR)
    quick = ("data.max_train=32", "data.max_eval=16", "train.max_steps=2", "train.max_length=32", "device=cpu")
    told = bench("task=rte", "row=lora_r1", "model=local", f"model.path={tiny}", *quick, f"results={results}")
    assert told.code == 0, told.err
    words = ("serve", "--results", str(results), "--base", str(tiny), "--port", "0", "--token-file", str(token))
    # A batch waits five seconds for its rows: the signal comes while all requests wait.
    server = Forked(tmp_path, "server", serve, *words, "--wait-ms", "5000", "--device", "cpu", "--threads", "1")
    try:
        address = listening_at(server)
        rows = [{"adapter": "task=rte method=lora", "text": "a b" * count, "text_pair": "a"} for count in (1, 9)]
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {SECRET}"}, timeout=60) as client:
            (adapter,) = client.get("/adapters").json()["adapters"]
            with ThreadPoolExecutor(12) as pool:
                asked = [pool.submit(client.post, "/predict", json=rows) for _ in range(12)]
                until(lambda: "lora2_bench_accepted_total 12\n" in client.get("/metrics").text)
                os.kill(server.pid, signal.SIGTERM)
                until(lambda: client.get("/health").status_code == 503)
                refused = client.post("/predict", json=rows)
                answers = [one.result() for one in asked]
    finally:
        out, err = server.communicate()
    assert server.poll() == 0
    assert refused.status_code == 503 and refused.json() == {"error": "the server is stopping: ask another"}
    assert {one.status_code for one in answers} == {200} and len({one.text for one in answers}) == 1
    for told_row in answers[0].json():
        assert told_row["adapter"] == adapter["id"] and [*told_row["probabilities"]] == adapter["labels"]
        assert sum(told_row["probabilities"].values()) == pytest.approx(1)
    assert out.splitlines()[-1] == "stopped by SIGTERM: 12 requests accepted, 12 answered, 0 hung up, 0 lost"
    assert "Traceback" not in err and SECRET not in out + err


def test_a_second_signal_ends_at_once_and_says_what_is_lost(tmp_path: Path) -> None:
    server = Forked(tmp_path, "server", serve_held, str(tmp_path))
    try:
        port = int(until(lambda: server.out.exists() and server.out.read_text().strip()))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(WHOLE)
            until(lambda: "accepted_total 1" in httpx.get(f"http://127.0.0.1:{port}/metrics").text)
            os.kill(server.pid, signal.SIGTERM)
            until(lambda: httpx.get(f"http://127.0.0.1:{port}/health").status_code == 503)
            os.kill(server.pid, signal.SIGTERM)
            answer = b""
            while not answer.endswith(b"}\n") and (part := line.recv(2**16)):  # head and body may come apart
                answer += part
    finally:
        (tmp_path / "go").touch()
        out, err = server.communicate()
    assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(b'stopped by force: ask another"}\n')
    assert out.splitlines()[-1] == "stopped by SIGTERM: 1 requests accepted, 0 answered, 0 hung up, 1 lost"
    assert (server.poll(), err) == (1, "")


class Held(Toy):
    """An engine whose batches wait for a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def logits(self, batch: Sequence[tuple[Entry, str]]) -> list[int | UserError]:
        until(self.file.exists)
        return super().logits(batch)


def serve_held(folder: str) -> None:
    """A server whose batches wait for a file; it prints its port."""
    from lora2_bench.serving.http.server import Served, bind

    made = bind("127.0.0.1", 0)
    made.listen()
    print(made.getsockname()[1], flush=True)
    sys.exit(Served(Shelf(), Held(Path(folder, "go")), Guard(None, loopback=True), Limits(), print).run(made))


def serve(*words: str) -> None:
    """`lora2-bench WORDS` in a process of its own."""
    bench(*words)


def until(found: Callable[[], T]) -> T:
    """What `found` finds, as soon as it finds something."""
    end = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def listening_at(server: Forked) -> str:
    """The address that a server says it listens at."""

    def said() -> re.Match[str] | None:
        return re.search(r"^1 adapter at (http://\S+)/ ", server.out.read_text() if server.out.exists() else "", re.M)

    until(lambda: said() is not None or server.poll() is not None)
    found = said()
    assert found is not None, server.err.read_text()
    return str(found[1])
