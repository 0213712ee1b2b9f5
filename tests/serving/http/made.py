"""A library and an engine without weights, and the server on them: in process, or on a socket of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lora2_bench.errors import UserError
from lora2_bench.serving.http.app import App
from lora2_bench.serving.http.batching import Batcher
from lora2_bench.serving.http.guard import Guard
from lora2_bench.serving.http.limits import Limits
from lora2_bench.serving.http.metrics import Metrics
from lora2_bench.serving.library import Entry

T = TypeVar("T")
RTE = ("entailment", "not_entailment")


def entry(name: str, task: str, labels: tuple[str, ...] | None, pair: bool) -> Entry:
    return Entry(name, "minilm", task, "lora r=1", 0, labels, 0.75, pair, 64, Path("cells") / name)


ENTRIES = {
    one.id: one
    for one in (
        entry("a" * 16, "rte", RTE, True),
        entry("b" * 16, "sst2", ("negative", "positive"), False),
        entry("c" * 16, "stsb", None, True),
    )
}
SST2 = ENTRIES["b" * 16]
BODY = json.dumps({"adapter": SST2.id, "text": "good film"}).encode()
HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Shelf:
    """A library: ids, and words of a task alone."""

    entries: Mapping[str, Entry] = ENTRIES
    refused: Mapping[str, str] = {"d" * 16: "its training failed: run it again"}

    def find(self, words: str) -> Entry:
        for one in ENTRIES.values():
            if words in (one.id, f"task={one.task}"):
                return one
        raise UserError(f"{words} is no cell: there are rte, sst2, stsb")


class Toy:
    """An engine whose answers are lengths; it waits at its gate, and fails for some texts.

    Attributes:
        batches: the texts of each batch.
        gate: batches pass while it is set.
        pause: seconds of a batch.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.pause = pause

    def encode(self, entry: Entry, text: str, text_pair: str | None = None) -> str:
        if text == "unreadable":
            raise UserError("text is unreadable: give another")
        return text + (text_pair or "")

    def logits(self, batch: Sequence[tuple[Entry, str]]) -> list[int | UserError]:
        assert self.gate.wait(30)
        self.batches.append([text for _, text in batch])
        if any(text == "break" for _, text in batch):
            raise RuntimeError("no memory\nis left")
        time.sleep(self.pause)
        return [UserError("cell x: its file is gone") if text == "gone" else len(text) for _, text in batch]

    def answer(self, entry: Entry, logits: int | UserError) -> dict[str, Any]:
        if isinstance(logits, UserError):
            raise logits
        if entry.labels is None:
            return {"score": logits / 10}
        label = entry.labels[logits % 2]
        return {"label": label, "probabilities": {one: float(one == label) for one in entry.labels}}


class Made:
    """A server in this process."""

    def __init__(self, engine: Toy | None = None, guard: Guard | None = None, **limits: Any) -> None:
        self.engine, self.metrics, self.told = engine or Toy(), Metrics(), list[str]()
        self.limits = Limits(**limits)
        self.batcher = Batcher(self.engine, self.limits, self.metrics, self.told.append)
        guard = guard or Guard(None, loopback=True)
        self.app = App(Shelf(), self.batcher, guard, self.limits, self.metrics, self.told.append)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://127.0.0.1:8000")

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
        """What `work` returns, with a client of the running server."""

        async def whole() -> T:
            async with self.client() as client:
                return await asyncio.wait_for(work(client), 60)

        self.batcher.start()
        try:
            return asyncio.run(whole())
        finally:
            self.engine.gate.set()
            self.batcher.close()

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """The answer to one request."""

        async def work(client: httpx.AsyncClient) -> httpx.Response:
            return await client.request(method, path, **how)

        return self.run(work)


async def soon(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


@contextmanager
def listening(engine: Toy, told: list[str], guard: Guard | None = None, **limits: Any) -> Iterator[int]:
    """The port of a server on a thread of its own, as `serve` runs it but for signals."""
    from lora2_bench.serving.http.server import Served, bind

    made = bind("127.0.0.1", 0)
    made.listen()
    served = Served(Shelf(), engine, guard or Guard(None, loopback=True), Limits(**limits), told.append)
    thread = threading.Thread(target=served.run, args=(made,))
    thread.start()
    try:
        yield made.getsockname()[1]
    finally:
        engine.gate.set()
        served.server.stop()
        thread.join(30)
        made.close()
    assert not thread.is_alive()


def raw(port: int, *parts: bytes, read: bool = True) -> bytes:
    """All that the server answers to bytes on one connection, until it closes; b"" where the client hangs up first."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        for part in parts:
            line.sendall(part)
        answer = b""
        while read and (part := line.recv(2**16)):
            answer += part
        return answer
