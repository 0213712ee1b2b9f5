"""The server on a socket: what is no HTTP, bodies too large, and clients that hang up; no line is told of any."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.serving.http.made import BODY, HEAD, WHOLE, Toy, listening, raw


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def port(toy: Toy, told: list[str]) -> Iterator[int]:
    with listening(toy, told, body_bytes=10_000, body_seconds=2, wait_seconds=0) as port:
        yield port


@pytest.fixture(autouse=True)
def nothing_is_told(port: int, told: list[str]) -> Iterator[None]:
    yield
    assert httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok"
    assert told == []


@pytest.mark.parametrize(
    "parts",
    [
        [b"nonsense\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n\r\n"],  # no Host
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],  # TLS
        [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 70_000],
        [HEAD + b"Content-Length: -1\r\n\r\n"],
        [HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"],
    ],
)
def test_what_is_no_http_is_refused_in_one_line(port: int, parts: list[bytes]) -> None:
    head, _, body = raw(port, *parts).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/json" in head
    assert json.loads(body) == {"error": "this is no HTTP/1.1 request: send one"} and body.count(b"\n") == 1


def test_what_is_no_http_after_an_answer_closes_the_connection(port: int) -> None:
    answer = raw(port, WHOLE, b"zz\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1 400 ") == 1
    refused = raw(port, HEAD.replace(b"json", b"text") + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert refused.startswith((b"HTTP/1.1 415 ", b"HTTP/1.1 400 ")) and refused.count(b"HTTP/1.1 4") == 1


def test_requests_in_one_piece_are_answered_one_after_another(port: int) -> None:
    answer = raw(port, WHOLE * 3 + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 4 and answer.count(b'"label": "positive"') == 3


@pytest.mark.parametrize("size", [10_001, 3 * 2**20])
def test_a_client_reads_that_its_body_is_too_large(port: int, size: int) -> None:
    for content in (b" " * size, iter([b" " * (size // 2)] * 3)):
        answer = httpx.post(
            f"http://127.0.0.1:{port}/predict", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 413
        assert answer.json()["error"] == "the body is too large: send 10000 bytes at most"


def test_a_client_that_asks_first_need_not_send_a_body_too_large(port: int) -> None:
    answer = raw(port, HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in answer


def test_who_connects_and_asks_nothing_is_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora2_bench.serving.http.server._HEAD_SECONDS", 0.05)
    assert raw(port) == b"" and raw(port, HEAD) == b""
    assert raw(port, WHOLE + WHOLE.replace(b"Host", b"Connection: close\r\nHost")).count(b"HTTP/1.1 200") == 2


def test_clients_that_hang_up_anywhere_are_forgotten(port: int, toy: Toy) -> None:
    def counts() -> tuple[int, int]:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        left = re.search(r'_requests_total\{path="/predict",status="499"\} (\d+)', text)
        accepted = re.search(r"_hung_up_total (\d+)", text)
        assert accepted is not None
        return int(left[1]) if left else 0, int(accepted[1])

    before = counts()
    raw(port, HEAD[:20], read=False)
    raw(port, HEAD + b"Content-Length: 500\r\n\r\n", b"{", read=False)
    toy.gate.clear()
    for _ in range(3):
        raw(port, WHOLE, read=False)
    end = time.monotonic() + 20
    while counts() != (before[0] + 4, before[1] + 3):
        assert time.monotonic() < end, (before, counts())
        time.sleep(0.01)
    toy.gate.set()
    answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=BODY, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


def test_the_end_does_not_wait_for_a_client_that_takes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora2_bench.serving.http.server._LEAVING_SECONDS", 1)
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with listening(Toy(), []) as port:
            line.connect(("127.0.0.1", port))
            line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000)
            stuck, end = 0, time.monotonic() + 20
            while stuck < 5:  # the page, and this request, again and again: nobody takes more of it
                text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
                stuck = stuck + 1 if "_in_flight_requests 2\n" in text else 0
                assert time.monotonic() < end
                time.sleep(0.1)
        # `listening` has seen the server end, and the client is still there
        assert line.fileno() > 0
