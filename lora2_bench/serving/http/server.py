"""The server's process: its socket, its signals, and its clean end. The only importer of uvicorn."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lora2_bench.errors import UserError, first_line
from lora2_bench.serving.http.app import App, Finds
from lora2_bench.serving.http.batching import Batcher, Runs
from lora2_bench.serving.http.guard import Guard
from lora2_bench.serving.http.limits import Limits
from lora2_bench.serving.http.metrics import Metrics
from lora2_bench.serving.http.responses import JSON, error_line

_HEAD_SECONDS = 10.0  # for the head of a connection's first request
_LEAVING_SECONDS = 5  # for clients that do not take their answers


class Server(uvicorn.Server):
    """uvicorn's, with an end that loses no accepted request.

    The first SIGTERM or SIGINT makes the application refuse what comes (503) while it answers what it has; then the
    socket is closed and the process ends. A second one ends it at once.

    Attributes:
        stopped_by: the name of the signal.
    """

    def __init__(self, app: App, tell: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_LEAVING_SECONDS,
            )
        )
        self._app, self._tell = app, tell
        self.stopped_by = ""
        self._stopping_since: float | None = None
        logger = logging.getLogger("uvicorn.error")
        logger.handlers, logger.propagate = [_OneLine(tell)], False
        logger.setLevel(logging.ERROR)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; what asyncio has to say is told in one line."""
        asyncio.get_running_loop().set_exception_handler(self._told)
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Called every tenth of a second: the end comes when all is answered.

        A client that does not take its answer is waited for a while; then only what was accepted is.
        """
        if self._app.is_stopping:
            self._stopping_since = self._stopping_since or time.monotonic()
            is_late = time.monotonic() - self._stopping_since > _LEAVING_SECONDS
            if not self._app.in_flight or (is_late and not self._app.owes):
                self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come. (uvicorn's own would raise it again at the end, and so end in its exit code.)"""
        if self._app.is_stopping:
            self.should_exit = self.force_exit = True
        self._app.is_stopping = True
        self.stopped_by = self.stopped_by or signal.Signals(sig).name

    def stop(self) -> None:
        """The same end, without a signal."""
        self._app.is_stopping = True

    def _told(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self.force_exit:
            self._tell(f"{context['message']}{f': {first_line(error)}' if error else ''}")


class Served:
    """A library on its way to the network: the engine's thread, the application and its server.

    Attributes:
        server: its `stop` ends `run`, as a signal does.
    """

    def __init__(self, library: Finds, engine: Runs, guard: Guard, limits: Limits, tell: Callable[[str], None]) -> None:
        self._metrics = Metrics()
        self._batcher = Batcher(engine, limits, self._metrics, tell)
        self.server = Server(App(library, self._batcher, guard, limits, self._metrics, tell), tell)

    def run(self, listening: socket.socket) -> int:
        """Serve until a signal, and say what became of the requests; returns the exit code."""
        self._batcher.start()
        try:
            self.server.run([listening])
        finally:
            self._batcher.close()
        counts, lost = self._metrics, self._metrics.unanswered
        print(
            f"stopped by {self.server.stopped_by or 'its caller'}: {counts.accepted} requests accepted, "
            f"{counts.answered} answered, {counts.hung_up} hung up, {lost} lost",
            flush=True,
        )
        return 1 if lost else 0


class _OneLine(logging.Handler):
    """Tells what uvicorn logs without its tracebacks."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one line."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, asyncio.CancelledError):
            self._tell(f"{record.getMessage().strip()}{f': {first_line(error)}' if error else ''}")


class _Protocol(H11Protocol):
    """HTTP/1.1, whose refusal of what is no HTTP is a line as all others; who connects has to ask soon."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(_HEAD_SECONDS, self._close_unasked)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _close_unasked(self) -> None:
        if self.cycle is None:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        body = error_line("this is no HTTP/1.1 request: send one")
        headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application has nobody to answer any more
            self.cycle.message_event.set()
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        try:
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        except h11.LocalProtocolError:  # an answer was sent, or is under way: there is no place for another
            pass
        self.transport.close()


def bind(host: str, port: int) -> socket.socket:
    """A socket for `host`, an address or a name, which does not listen yet. Raises UserError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host {host} is no address of this machine: give one, as 127.0.0.1") from None
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise UserError(
            f"--port {port} of {host} cannot be had ({error.strerror}): give another, or 0 for any that is free"
        ) from None
    return made
