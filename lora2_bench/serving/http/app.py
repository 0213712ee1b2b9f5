"""The server as an ASGI application: five paths, and what each refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from lora2_bench.errors import first_line
from lora2_bench.serving.http.asking import read_request
from lora2_bench.serving.http.batching import Ask, Batcher
from lora2_bench.serving.http.guard import Guard
from lora2_bench.serving.http.limits import Limits
from lora2_bench.serving.http.metrics import KIND, Metrics
from lora2_bench.serving.http.page import Page
from lora2_bench.serving.http.responses import (
    CLOSE,
    JSON,
    Headers,
    HungUp,
    Receive,
    Refused,
    Scope,
    Send,
    error_line,
    json_line,
    respond,
)

if TYPE_CHECKING:
    from lora2_bench.serving.library import Entry

PATHS = {"/": "GET", "/adapters": "GET", "/health": "GET", "/metrics": "GET", "/predict": "POST"}
HUNG_UP = 499
_DISCARDED = 8 * 2**20  # bytes of a body too large that are read, so that its client comes to read the answer
_Told = tuple[bytes, bytes, Headers]  # body, content type, further headers


class Finds(Protocol):
    """What the server needs of a library."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Id -> adapter."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Id -> why its adapter cannot be served."""

    def find(self, words: str) -> Entry:
        """The adapter of an id, or of words as task=rte. Raises UserError."""


class App:
    """The application.

    Attributes:
        in_flight: requests without an answer yet.
        is_stopping: set by whoever stops the server: what comes from then on is refused, with 503.
    """

    def __init__(
        self,
        library: Finds,
        batcher: Batcher,
        guard: Guard,
        limits: Limits,
        metrics: Metrics,
        tell: Callable[[str], None],
    ) -> None:
        self._batcher, self._guard, self._limits, self._metrics, self._tell = batcher, guard, limits, metrics, tell
        self._find = lru_cache(4096)(library.find)
        self._page = Page()
        self._count = len(library.entries)
        self._adapters = json_line(
            {"adapters": [_described(entry) for entry in library.entries.values()], "refused": dict(library.refused)}
        )
        self._held = 0
        self.in_flight = 0
        self.is_stopping = False

    @property
    def owes(self) -> bool:
        """Whether an accepted request has no answer yet, and its client is there."""
        return self._metrics.unanswered > 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = perf_counter()
        path = scope["path"] if scope["path"] in PATHS else "other"
        self.in_flight += 1
        try:
            status, (body, kind, headers) = await self._answer(scope, receive)
            await respond(send, status, body, kind, headers)
        except HungUp:
            status = HUNG_UP
        finally:
            self.in_flight -= 1
        self._metrics.requests[path, status] += 1
        if path == "/predict" and status == 200:
            self._metrics.request_seconds.observe(perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, _Told]:
        """A status and what to send. Raises HungUp."""
        try:
            return 200, await self._route(scope, receive)
        except Refused as refused:
            headers = [*refused.headers, *(CLOSE if self.is_stopping else ())]
            return refused.status, (error_line(str(refused)), JSON, headers)
        except HungUp:
            raise
        except asyncio.CancelledError:  # the loop's end: somebody has stopped the server by force
            return 503, (error_line("the server was stopped by force: ask another"), JSON, CLOSE)
        except Exception as error:
            self._tell(f"{scope['method']} {scope['path']}: {type(error).__name__}: {first_line(error)}")
            return 500, (error_line("the server failed on this request: its console says why"), JSON, CLOSE)

    async def _route(self, scope: Scope, receive: Receive) -> _Told:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        self._guard.check(path, headers)
        if path not in PATHS:
            raise Refused(404, f"there is no such path: the server has {', '.join(PATHS)}")
        if method != PATHS[path] and not (method == "HEAD" and PATHS[path] == "GET"):
            raise Refused(405, f"{path} takes {PATHS[path]} alone", [(b"allow", PATHS[path].encode())])
        if path == "/":
            return self._page.body, b"text/html; charset=utf-8", self._page.headers
        if path == "/metrics":
            return self._metrics.text(self._batcher.waiting, self.in_flight, self._count), KIND, ()
        if path == "/health":
            return self._health(), JSON, ()
        self._refuse_when_stopping()
        if path == "/adapters":
            return self._adapters, JSON, ()
        return await self._predict(headers, receive), JSON, CLOSE if self.is_stopping else ()

    def _health(self) -> bytes:
        self._refuse_when_stopping()
        if not self._batcher.is_alive:
            raise Refused(503, "the engine has ended: start the server again")
        return json_line({"status": "ok", "adapters": self._count, "queue_rows": self._batcher.waiting})

    def _refuse_when_stopping(self) -> None:
        if self.is_stopping:
            raise Refused(503, "the server is stopping: ask another")

    async def _predict(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != JSON:  # which a browser sends to another site only if that allows it, and this one does not
            raise Refused(415, "the body's type is not JSON's: send the header Content-Type: application/json", CLOSE)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(415, "the body is compressed: send it as it is", CLOSE)
        with self._holding() as hold:
            rows, is_list = read_request(await self._body(headers, receive, hold), self._find, self._limits)
            self._refuse_when_stopping()
            answers = await self._answers(self._batcher.put(rows, is_list), receive)
        return json_line(answers if is_list else answers[0])

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """What counts a request's bytes until its end, and raises Refused where all requests hold too many."""
        own = 0

        def hold(count: int) -> None:
            nonlocal own
            if self._held + count > self._limits.held_bytes:
                raise Refused(429, "too many bytes wait already: try again", [(b"retry-after", b"1"), *CLOSE])
            own += count
            self._held += count

        try:
            yield hold
        finally:
            self._held -= own

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive, hold: Callable[[int], None]) -> bytes:
        """The whole body. Raises Refused for one too large or too slow, HungUp."""
        limit = self._limits.body_bytes
        too_large = Refused(413, f"the body is too large: send {limit} bytes at most", CLOSE)
        declared = headers.get(b"content-length", b"0")  # digits: the protocol has checked it
        if int(declared) > limit and b"expect" in headers:
            raise too_large
        parts: list[bytes] = []
        size, is_more = 0, True
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while is_more and size <= limit + _DISCARDED:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise HungUp
                    part, is_more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    if size <= limit:
                        hold(len(part))
                        parts.append(part)
                    else:
                        parts.clear()
        except TimeoutError:
            if size <= limit:
                seconds = f"{self._limits.body_seconds:g} s"
                raise Refused(408, f"the body did not come within {seconds}: send it at once", CLOSE) from None
        if size > limit:
            raise too_large
        return b"".join(parts)

    async def _answers(self, ask: Ask, receive: Receive) -> list[dict[str, Any]]:
        """The answers of an accepted request. Raises HungUp as soon as its client is gone."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((ask.future, gone), return_when=asyncio.FIRST_COMPLETED)
            if not ask.future.done():
                self._metrics.hung_up += 1
                raise HungUp
            self._metrics.answered += 1
            return ask.future.result()
        finally:
            gone.cancel()
            if not ask.future.done():
                self._batcher.drop(ask)


async def _disconnected(receive: Receive) -> None:
    """Wait until the client is gone, or has its answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _described(entry: Entry) -> dict[str, object]:
    names = ("id", "model", "task", "method", "seed", "labels", "score", "pair", "max_length")
    return {name: getattr(entry, name) for name in names}
