"""What the server sends: JSON on one line, and errors as {"error": "..."}."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from lora2_bench.records.scrub import scrub

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

JSON = b"application/json"
CLOSE: Headers = ((b"connection", b"close"),)
_ALWAYS: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Refused(Exception):
    """A request that is answered with an error.

    Attributes:
        status: the status of the answer.
        headers: what it says beside the line.
    """

    def __init__(self, status: int, line: str, headers: Headers = ()) -> None:
        super().__init__(line)
        self.status = status
        self.headers = headers


class HungUp(Exception):
    """The client is gone: there is nobody to answer."""


def json_line(value: object) -> bytes:
    """`value` as one line of UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"


def error_line(text: str) -> bytes:
    """The body of every error; no client is told where the server's files are."""
    return json_line({"error": scrub(text)})


async def respond(send: Send, status: int, body: bytes, kind: bytes = JSON, headers: Headers = ()) -> None:
    """Send a whole answer."""
    own = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *_ALWAYS, *headers]})
    await send({"type": "http.response.body", "body": body})
