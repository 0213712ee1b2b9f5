"""Rows of many requests in one batch: a bounded queue, and the one thread that runs the engine."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from lora2_bench.errors import UserError, first_line
from lora2_bench.serving.http.asking import Wanted, where
from lora2_bench.serving.http.limits import Limits
from lora2_bench.serving.http.metrics import Metrics
from lora2_bench.serving.http.responses import Refused

if TYPE_CHECKING:
    from lora2_bench.serving.library import Entry

Answer = dict[str, Any]


class Runs(Protocol):
    """What the server needs of an engine; it is called from one thread."""

    def encode(self, entry: Entry, text: str, text_pair: str | None = None) -> Any:
        """A row's tokens. Raises UserError."""

    def logits(self, batch: Sequence[tuple[Entry, Any]]) -> Sequence[Any]:
        """The logits of each row."""

    def answer(self, entry: Entry, logits: Any) -> Answer:
        """A row's logits in words."""


class Ask:
    """One request on its way: its rows, which several batches may hold, and the future of their answers."""

    def __init__(self, rows: Sequence[Wanted], is_list: bool) -> None:
        self.rows, self.is_list = rows, is_list
        self.answers: list[Answer] = [{}] * len(rows)
        self.left = len(rows)
        self.since = monotonic()
        self.is_over = False  # answered, failed, or its client is gone: its rows are worth no more work
        self.failure: Refused | None = None
        self.future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()


class Batcher:
    """Takes requests from the event loop and answers them from its thread.

    A batch begins when `batch_rows` rows wait, or the oldest has waited for `wait_seconds`: so a busy engine finds full
    batches, and an idle one does not keep a lone request waiting.

    Args:
        tell: is given one line for an error that no request is guilty of.
    """

    def __init__(self, engine: Runs, limits: Limits, metrics: Metrics, tell: Callable[[str], None]) -> None:
        self._engine, self._limits, self._metrics, self._tell = engine, limits, metrics, tell
        self._queue: deque[tuple[Ask, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._row_seconds = 0.01  # of late; what 429's Retry-After is reckoned from
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """End the thread after the batch at hand; what waits is not answered."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify()
        self._thread.join(timeout)

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._queue)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def put(self, rows: Sequence[Wanted], is_list: bool) -> Ask:
        """Accept a request: its future will have its answers, or raise Refused. Raises Refused (429) for a full queue.

        To be called on the event loop.
        """
        with self._changed:
            before = len(self._queue)
            if before + len(rows) > self._limits.queue_rows:
                seconds = max(1, math.ceil(before * self._row_seconds))
                raise Refused(429, f"{before} rows wait already: try again", [(b"retry-after", str(seconds).encode())])
            ask = Ask(rows, is_list)
            self._queue.extend((ask, at) for at in range(len(rows)))
            if before == 0 or len(self._queue) >= self._limits.batch_rows:
                self._changed.notify()
        self._metrics.accepted += 1
        return ask

    def drop(self, ask: Ask) -> None:
        """Forget a request whose client is gone: rows that are in no batch yet cost nothing."""
        ask.future.cancel()
        self._end(ask)

    def _end(self, ask: Ask) -> None:
        with self._changed:
            ask.is_over = True
            if any(other is ask for other, _ in self._queue):
                self._queue = deque(item for item in self._queue if item[0] is not ask)

    def _work(self) -> None:
        while batch := self._take():
            try:
                self._run(batch)
            except Exception as error:  # a failure of this module's own: its requests must not wait for ever
                for ask, _ in batch:
                    self._fail(ask, self._broken(error))

    def _take(self) -> list[tuple[Ask, int]]:
        """The next batch; none when the queue is closed."""
        most = self._limits.batch_rows
        with self._changed:
            while not self._closed:
                if not self._queue:
                    self._changed.wait()
                    continue
                left = self._queue[0][0].since + self._limits.wait_seconds - monotonic()
                if len(self._queue) >= most or left <= 0:
                    return [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
                self._changed.wait(left)
        return []

    def _run(self, batch: list[tuple[Ask, int]]) -> None:
        began = perf_counter()
        encoded = [(ask, at, row) for ask, at in batch if (row := self._encoded(ask, at)) is not None]
        ready = [item for item in encoded if not item[0].is_over]
        if not ready:
            return
        outputs = self._outputs(ready)
        seconds = perf_counter() - began
        self._row_seconds += 0.2 * (seconds / len(ready) - self._row_seconds)
        self._metrics.batch_rows.observe(len(ready))  # before any answer: who has one finds its batch counted
        self._metrics.batch_seconds.observe(seconds)
        for (ask, at, _), output in zip(ready, outputs, strict=True):
            if isinstance(output, Refused):
                self._fail(ask, output)
            elif not ask.is_over:
                self._take_answer(ask, at, output)

    def _take_answer(self, ask: Ask, at: int, output: Any) -> None:
        entry = ask.rows[at].entry
        try:
            ask.answers[at] = {"adapter": entry.id, **self._engine.answer(entry, output)}
        except UserError as error:  # an adapter that cannot be read, or whose weights are not finite
            self._fail(ask, self._broken(error))
            return
        ask.left -= 1
        if not ask.left:
            ask.is_over = True
            self._deliver(ask)

    def _encoded(self, ask: Ask, at: int) -> Any:
        """The tokens of a row; None where its request is over, by this row too."""
        if ask.is_over:
            return None
        wanted = ask.rows[at]
        try:
            return self._engine.encode(wanted.entry, wanted.text, wanted.text_pair)
        except UserError as error:
            self._fail(ask, Refused(422, f"{where(at) if ask.is_list else ''}{error}"))
        except Exception as error:
            self._fail(ask, self._broken(error))
        return None

    def _outputs(self, ready: Sequence[tuple[Ask, int, Any]]) -> Sequence[Any]:
        """The logits of each row, or Refused for the rows of an adapter that fails: others in the batch do not."""
        pairs = [(ask.rows[at].entry, row) for ask, at, row in ready]
        try:
            return self._engine.logits(pairs)
        except Exception as error:
            ids = dict.fromkeys(entry.id for entry, _ in pairs)
            if len(ids) == 1:
                return [self._broken(error)] * len(pairs)
        outputs: list[Any] = [None] * len(pairs)
        for one in ids:
            places = [at for at, (entry, _) in enumerate(pairs) if entry.id == one]
            for at, output in zip(places, self._outputs([ready[at] for at in places]), strict=True):
                outputs[at] = output
        return outputs

    def _broken(self, error: Exception) -> Refused:
        """What a client is told of a failure that is not its own; the reason goes to the console."""
        if isinstance(error, UserError):
            self._tell(str(error))
            return Refused(500, str(error))
        self._tell(f"the engine failed: {type(error).__name__}: {first_line(error)}")
        return Refused(500, "the engine failed on this request: the server's console says why")

    def _fail(self, ask: Ask, failure: Refused) -> None:
        if not ask.is_over:
            ask.failure = failure
            self._end(ask)
            self._deliver(ask)

    @staticmethod
    def _deliver(ask: Ask) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server was stopped by force
            ask.future.get_loop().call_soon_threadsafe(_settle, ask)


def _settle(ask: Ask) -> None:
    if ask.future.done():
        return
    if ask.failure is not None:
        ask.future.set_exception(ask.failure)
    else:
        ask.future.set_result(ask.answers)
