"""10,000 requests to a real `lora2-bench serve`, a fifth of them bad, with clients that hang up; then kill -TERM.

    python scripts/soak_serving.py RESULTS [--requests 10000] [-- OPTIONS OF SERVE]

Everything is on loopback. What is counted: answers by status; whether each kind of request got the status that it
should; what the server accepted, answered and lost; lines on its standard error; its memory when a tenth and when all
of the requests are done. Then the load goes on, without clients that hang up, and SIGTERM comes in its middle: each
request that the server says it accepted must have been answered at the client. Exit code 1 where anything of this
fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

WORDS = "the a film plot actor is was not very good bad long short and of in it they says that".split()  # noqa: SIM905
_LOST = "no answer"
_LEFT = "hung up"


@dataclass
class Request:
    """One request, as bytes: what it is, the statuses that are right, and after which byte its client leaves."""

    kind: str
    data: bytes
    right: tuple[int, ...]
    leaves: int | None = None


@dataclass
class Tally:
    """What clients saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Run the soak and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="with finished cells that can be served")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("serve", nargs="*", help="options of serve, after --")
    given = parser.parse_args()
    with tempfile.TemporaryFile("w+") as errors:
        words = ["--results", str(given.results), "--port", "0", *given.serve]
        command = [sys.executable, "-m", "lora2_bench", "serve", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server:
            try:
                failures = soak(server, given.requests, given.clients, random.Random(given.seed))
            finally:
                server.kill()
        errors.seek(0)
        told = [line for line in errors.read().splitlines() if not line.startswith("not served: ")]
    print(f"standard error: {len(told)} lines{''.join(f'; {line}' for line in told[:5])}")
    failures += ["the server told errors"] if told else []
    print("\n".join(f"FAILED: {line}" for line in failures) or "all as it should be")
    sys.exit(1 if failures else 0)


def soak(server: subprocess.Popen[str], count: int, clients: int, draw: random.Random) -> list[str]:
    """Both parts; returns what failed."""
    assert server.stdout is not None
    first = server.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", first)
    if not found:
        return [f"the server did not start: {first.strip()}"]
    port = int(found[1])
    entries = json.loads(fetch(port, "/adapters"))["adapters"]
    memory = Memory(server.pid, count)
    requests = (made(draw, entries, 0.2, 0.05) for _ in range(count))
    began = time.monotonic()
    tally = asyncio.run(load(port, requests, clients, memory.seen))
    seconds = time.monotonic() - began
    before = counted(fetch(port, "/metrics"))
    print(f"{count} requests from {clients} clients in {seconds:.0f} s ({count / seconds:.0f} a second)")
    print("by status:", ", ".join(f"{name}: {number}" for name, number in sorted(tally.outcomes.items())))
    latency = ", ".join(f"{quantile(tally.seconds, share):.3f}" for share in (0.5, 0.95, 0.99))
    print("seconds of 200s at 50, 95, 99 %:", latency)
    print(f"server: {before['accepted']} accepted, {before['answered']} answered, {before['hung_up']} hung up")
    print(f"memory: {memory.tenth:.1f} MiB at 10 %, {memory.whole:.1f} MiB at 100 %")
    failures = tally.wrong[:5]
    if lost := before["accepted"] - before["answered"] - before["hung_up"]:
        failures.append(f"{lost} accepted requests were not answered")
    if memory.whole > 1.05 * memory.tenth:
        failures.append("memory grew by more than 5 %")
    return [*failures, *stopped(server, port, entries, clients, draw, before)]


def stopped(
    server: subprocess.Popen[str],
    port: int,
    entries: list[dict[str, Any]],
    clients: int,
    draw: random.Random,
    before: dict[str, int],
) -> list[str]:
    """The second part: SIGTERM when 500 requests of a load are answered."""
    assert server.stdout is not None

    def seen(number: int) -> None:
        if number == 500:
            server.send_signal(signal.SIGTERM)

    requests = (made(draw, entries, 0.0, 0.0) for _ in range(2000))
    tally = asyncio.run(load(port, requests, clients, seen))
    code = server.wait(60)
    last = server.stdout.read().strip().splitlines()[-1]
    print("after SIGTERM:", ", ".join(f"{name}: {number}" for name, number in sorted(tally.outcomes.items())))
    print(f"server: {last}; exit code {code}")
    found = re.search(r"(\d+) requests accepted, (\d+) answered, \d+ hung up, (\d+) lost", last)
    if not found or code != 0:
        return ["the server did not end cleanly"]
    accepted = int(found[1]) - before["accepted"]
    at_client = tally.outcomes["200"]
    print(f"accepted in this part: {accepted}; answered at the client: {at_client}")
    failures = (
        [f"{accepted - at_client} accepted requests had no answer at the client"] if accepted != at_client else []
    )
    return failures + ([] if tally.outcomes["503"] else ["no request was refused with 503: SIGTERM came too late"])


class Memory:
    """Resident memory of a process when a tenth and all of the requests are done, in MiB."""

    def __init__(self, pid: int, count: int) -> None:
        self._process, self._count = psutil.Process(pid), count
        self.tenth = self.whole = 0.0

    def seen(self, number: int) -> None:
        """So many are done."""
        if number == self._count // 10:
            self.tenth = self._now()
        if number == self._count:
            self.whole = self._now()

    def _now(self) -> float:
        return float(self._process.memory_info().rss) / 2**20


async def load(port: int, requests: Iterator[Request], clients: int, seen: Callable[[int], None]) -> Tally:
    """Send all requests, `clients` at a time, each client on one connection as long as the server keeps it."""
    tally, done = Tally(), 0

    async def client() -> None:
        nonlocal done
        line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for request in requests:
            began = time.monotonic()
            outcome, line = await send(port, line, request)
            tally.outcomes[outcome] += 1
            if outcome == "200":
                tally.seconds.append(time.monotonic() - began)
            expected = [str(status) for status in request.right] if request.leaves is None else [_LEFT]
            if outcome not in expected:
                tally.wrong.append(f"{request.kind}: {outcome}")
            done += 1
            seen(done)
        if line:
            line[1].close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return tally


async def send(
    port: int, line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None, request: Request
) -> tuple[str, tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]:
    """The outcome of one request, and the connection where it can be used again."""
    try:
        if line is None:
            line = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = line
        if request.leaves is not None:
            writer.write(request.data[: request.leaves])
            await writer.drain()
            writer.transport.abort()
            return _LEFT, None
        writer.write(request.data)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).lower()
        length = re.search(rb"content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        return _LOST, None
    status = head.split()[1].decode()
    if status != "200" and ([*json.loads(body)] != ["error"] or body.count(b"\n") != 1):
        return f"{status} without its line", None
    if b"connection: close" in head:
        writer.close()
        return status, None
    return status, line


def made(draw: random.Random, entries: list[dict[str, Any]], bad: float, leaving: float) -> Request:
    """A request; of a share `bad` that is malformed or too long, and `leaving` whose client hangs up."""
    if draw.random() < bad:
        return _bad(draw, entries)
    rows = [_row(draw, draw.choice(entries)) for _ in range(draw.choice((1, 1, 1, 1, 1, 1, 2, 3)))]
    data = post(json.dumps(rows if len(rows) > 1 else rows[0]).encode())
    if draw.random() < leaving:
        return Request("leaves", data, (), draw.choice((len(data), len(data), draw.randrange(1, len(data)))))
    return Request("good", data, (200,))


def _bad(draw: random.Random, entries: list[dict[str, Any]]) -> Request:
    row = _row(draw, draw.choice(entries))
    body = json.dumps(row).encode()
    pair = next((one for one in entries if one["pair"]), None)
    kinds = [
        Request("cut JSON", post(body[: draw.randrange(len(body))]), (400,)),
        Request("bytes", post(draw.randbytes(200)), (400,)),
        Request("deep", post(b"[" * 50_000), (400,)),
        Request("no HTTP", draw.randbytes(40) + b"\r\n\r\n", (400,)),
        Request("bad chunk", post(b"", b"Transfer-Encoding: chunked") + b"zz\r\n", (400,)),
        Request("other path", b"GET /x%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % draw.randrange(10**6), (404,)),
        Request("other method", b"DELETE /predict HTTP/1.1\r\nHost: localhost\r\n\r\n", (405,)),
        Request("body too large", post(b" " * (2**20 + 1)), (413,)),
        Request("text too long", post(json.dumps({**row, "text": "x" * 30_000}).encode()), (413,)),
        Request("rows too many", post(json.dumps([row] * 257).encode()), (413,)),
        Request("no JSON's type", post(body).replace(b"application/json", b"text/plain"), (415,)),
        Request("foreign host", post(body).replace(b"127.0.0.1", b"evil.example"), (421,)),
        Request("no adapter", post(json.dumps({**row, "adapter": f"x{draw.random()}"}).encode()), (422,)),
        Request("no text", post(json.dumps({**row, "text": None}).encode()), (422,)),
        Request("half a pair", post(json.dumps({**row, "text": "\ud800"}).encode()), (422,)),
    ]
    if pair:
        kinds.append(Request("one text", post(json.dumps({"adapter": pair["id"], "text": "a"}).encode()), (422,)))
    return draw.choice(kinds)


def _row(draw: random.Random, entry: dict[str, Any]) -> dict[str, str]:
    row = {"adapter": entry["id"], "text": _text(draw)}
    return {**row, "text_pair": _text(draw)} if entry["pair"] else row


def _text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randrange(2, 12)))


def post(body: bytes, framing: bytes | None = None) -> bytes:
    """A request to /predict, as bytes."""
    framing = framing or b"Content-Length: %d" % len(body)
    return b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%s\r\n\r\n%s" % (
        framing,
        body,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def fetch(port: int, path: str) -> str:
    """What the server answers to GET."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return str(answer.read().decode())


def counted(metrics: str) -> dict[str, int]:
    """The server's own counts."""
    found = re.findall(r"^lora2_bench_(accepted|answered|hung_up)_total (\d+)", metrics, re.MULTILINE)
    return {name: int(value) for name, value in found}


if __name__ == "__main__":
    main()
