"""The server in process: answers, refusals, batches, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from lora2_bench.serving.http.guard import Guard
from lora2_bench.serving.http.page import Page
from tests.serving.http.made import ENTRIES, RTE, SST2, Made, Toy, soon

TOKEN = "0123456789abcdef-token"
GOOD = {"adapter": SST2.id, "text": "good film"}


def is_line(answer: httpx.Response) -> bool:
    """Whether an answer is one line with an error and nothing else."""
    text = answer.text
    return (
        answer.headers["content-type"] == "application/json" and text.count("\n") == 1 and [*answer.json()] == ["error"]
    )


def test_one_object_and_a_list_are_answered_in_their_order() -> None:
    rows = [
        {"adapter": "task=rte", "text": "a", "text_pair": "bc"},
        GOOD,
        {"adapter": "c" * 16, "text": "a", "text_pair": "bcd"},
    ]

    async def work(client: httpx.AsyncClient) -> list[Any]:
        answers = [await client.post("/predict", json=body) for body in (GOOD, rows, [GOOD])]
        assert [one.status_code for one in answers] == [200] * 3
        return [one.json() for one in answers]

    single, several, one = Made().run(work)
    positive = {"adapter": "b" * 16, "label": "positive", "probabilities": {"negative": 0.0, "positive": 1.0}}
    assert single == positive and one == [positive]
    assert several == [
        {"adapter": "a" * 16, "label": RTE[1], "probabilities": {RTE[0]: 0.0, RTE[1]: 1.0}},
        positive,
        {"adapter": "c" * 16, "score": 0.4},
    ]


def test_adapters_health_and_the_page() -> None:
    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get(path) for path in ("/adapters", "/health", "/")] + [await client.head("/")]

    adapters, health, page, head = Made().run(work)
    told = adapters.json()
    assert [one["id"] for one in told["adapters"]] == [*ENTRIES] and [*told["refused"]] == ["d" * 16]
    assert told["adapters"][0] == {
        "id": "a" * 16, "model": "minilm", "task": "rte", "method": "lora r=1", "seed": 0, "labels": [*RTE],
        "score": 0.75, "pair": True, "max_length": 64,
    }  # fmt: skip
    assert health.json() == {"status": "ok", "adapters": 3, "queue_rows": 0}
    assert page.content == Page().body and head.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    for answer in (adapters, health, page):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (b"", 400, "the body is no JSON"),
        (b"{", 400, "the body is no JSON"),
        (b"\xff\xfe", 400, "the body is no JSON"),
        (b"[" * 100_000, 400, "the body is no JSON"),
        (b"9" * 5000, 400, "the body is no JSON"),
        (b'{"adapter": "a", "text": "b", "text": "c"}', 400, "the body is no JSON ('text' is there twice): send {"),
        (b"[]", 422, "the list has no rows: send one at least"),
        (b"3", 422, "this is no object"),
        (b"[[]]", 422, "row 1: this is no object"),
        (json.dumps([GOOD] * 9).encode(), 413, "9 rows are too many: send 8 at most in one request"),
        ({"text": "a"}, 422, "adapter is missing: give a string"),
        ({"adapter": 3, "text": "a"}, 422, "adapter is no text: give a string"),
        ({**GOOD, "adapter": "x" * 301}, 422, "adapter has 301 characters: give an id, or words"),
        ({**GOOD, "adapter": "nothing"}, 422, "nothing is no cell: there are rte, sst2, stsb"),
        ([GOOD, {**GOOD, "text": None}], 422, "row 2: text is no text: give a string"),
        ({**GOOD, "text": " \n"}, 422, "text is empty: give a text"),
        ({**GOOD, "texts": "a"}, 422, "'texts' is not known: did you mean text?"),
        ({**GOOD, "text": "a" * 101}, 413, "text has 101 characters: send 100 at most"),
        ({**GOOD, "text_pair": "b"}, 422, "sst2 has one text: leave text_pair out"),
        ({"adapter": "task=rte", "text": "a"}, 422, "rte has two texts: give text_pair"),
        ({"adapter": "task=rte", "text": "a", "text_pair": "b" * 101}, 413, "text_pair has 101 characters"),
        (b'{"adapter": "task=sst2", "text": "\\ud800"}', 422, "text has half a surrogate pair"),
        ({**GOOD, "text": "unreadable"}, 422, "text is unreadable: give another"),
        ([GOOD, {**GOOD, "text": "unreadable"}], 422, "row 2: text is unreadable: give another"),
        (b" " * 2001, 413, "the body is too large: send 2000 bytes at most"),
    ],
)
def test_a_bad_body_is_refused_in_one_line_and_costs_nothing(body: Any, status: int, line: str) -> None:
    made = Made(rows=8, characters=100, body_bytes=2000 if b" " * 9 in str(body).encode() else 2**20)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = made.ask("POST", "/predict", content=content, headers={"Content-Type": "application/json; charset=utf-8"})
    assert (answer.status_code, is_line(answer)) == (status, True), answer.text
    assert answer.json()["error"].startswith(line)
    assert made.told == [] and made.engine.batches == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "line"),
    [
        ("GET", "/docs", {}, 404, "there is no such path: the server has /, /adapters, /health, /metrics, /predict"),
        ("GET", "/predict", {}, 405, "/predict takes POST alone"),
        ("OPTIONS", "/predict", {"Origin": "https://evil.example"}, 405, "/predict takes POST alone"),
        ("POST", "/adapters", {}, 405, "/adapters takes GET alone"),
        ("POST", "/predict", {"Content-Type": "text/plain"}, 415, "the body's type is not JSON's"),
        ("POST", "/predict", {"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415, "the body is comp"),
        ("GET", "/adapters", {"Host": "evil.example:8000"}, 421, "the Host header names no loopback address"),
        ("GET", "/", {"Host": "127.0.0.1.evil.example"}, 421, "the Host header names no loopback address"),
        ("GET", "/health", {"Host": "10.0.0.1"}, 421, "the Host header names no loopback address"),
        ("GET", "/health", {"Host": ""}, 421, "the Host header names no loopback address"),
    ],
)
def test_other_requests_are_refused(method: str, path: str, headers: dict[str, str], status: int, line: str) -> None:
    answer = Made().ask(method, path, headers=headers)
    assert (answer.status_code, is_line(answer)) == (status, True), answer.text
    assert answer.json()["error"].startswith(line)
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "[::1]"])
def test_every_name_of_loopback_is_one(host: str) -> None:
    assert Made().ask("GET", "/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"]
)
def test_without_the_token_there_is_only_the_page_and_the_health(given: str) -> None:
    made = Made(guard=Guard(TOKEN, loopback=False))

    async def work(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
        return {path: await client.get(path, headers={"Host": "gpu.example", "Authorization": given})
                for path in ("/", "/health", "/adapters", "/metrics", "/predict", "/other")}  # fmt: skip

    answers = made.run(work)
    assert [one.status_code for one in answers.values()] == [200, 200, 401, 401, 401, 401]
    assert answers["/adapters"].headers["www-authenticate"] == "Bearer"
    assert TOKEN not in "".join(one.text for one in answers.values())


def test_with_the_token_all_is_answered() -> None:
    made = Made(guard=Guard(TOKEN, loopback=False))
    headers = {"Host": "gpu.example", "Authorization": f"bearer {TOKEN}"}
    assert made.ask("POST", "/predict", json=GOOD, headers=headers).status_code == 200


def test_requests_that_come_together_share_batches_of_a_bounded_size() -> None:
    made = Made(batch_rows=4, wait_seconds=0.2)

    async def work(client: httpx.AsyncClient) -> None:
        made.engine.gate.clear()
        first = asyncio.ensure_future(client.post("/predict", json=[GOOD] * 4))
        await soon(lambda: made.metrics.accepted == 1 and made.batcher.waiting == 0)  # it is at the gate
        texts = [f"text {number}" for number in range(9)]
        others = [asyncio.ensure_future(client.post("/predict", json={**GOOD, "text": one})) for one in texts]
        await soon(lambda: made.batcher.waiting == 9)
        made.engine.gate.set()
        answers = await asyncio.gather(first, *others)
        assert {one.status_code for one in answers} == {200}

    made.run(work)
    assert [len(batch) for batch in made.engine.batches] == [4, 4, 4, 1]
    assert made.metrics.batch_rows.count == 4 and made.metrics.batch_rows.sum == 13


def test_a_request_of_more_rows_than_a_batch_is_answered_whole() -> None:
    made = Made(batch_rows=4)
    rows = [{**GOOD, "text": "x" * number} for number in range(1, 12)]
    answers = made.ask("POST", "/predict", json=rows).json()
    assert [one["label"] for one in answers] == [("negative", "positive")[number % 2] for number in range(1, 12)]
    assert [len(batch) for batch in made.engine.batches] == [4, 4, 3]


def test_a_full_queue_answers_429_and_then_goes_on() -> None:
    made = Made(batch_rows=2, queue_rows=4, rows=4, wait_seconds=0)

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        made.engine.gate.clear()
        first = asyncio.ensure_future(client.post("/predict", json=[GOOD] * 2))
        await soon(lambda: made.metrics.accepted == 1 and made.batcher.waiting == 0)
        second = asyncio.ensure_future(client.post("/predict", json=[GOOD] * 3))
        await soon(lambda: made.batcher.waiting == 3)
        refused = await client.post("/predict", json=[GOOD] * 2)
        fits = asyncio.ensure_future(client.post("/predict", json=GOOD))
        await soon(lambda: made.batcher.waiting == 4)
        made.engine.gate.set()
        return [refused, await first, await second, await fits]

    refused, *others = made.run(work)
    assert (refused.status_code, is_line(refused)) == (429, True)
    assert int(refused.headers["retry-after"]) >= 1
    assert [one.status_code for one in others] == [200] * 3
    assert (made.metrics.accepted, made.metrics.answered) == (3, 3)


def test_bodies_that_wait_have_a_bound_too() -> None:
    answer = Made(held_bytes=20).ask("POST", "/predict", json=GOOD)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_a_client_that_hangs_up_costs_no_batch_and_leaves_nothing() -> None:
    made = Made(wait_seconds=0)
    body = json.dumps([{**GOOD, "text": "nobody reads this"}] * 3).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/predict",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
    }  # fmt: skip

    async def work(client: httpx.AsyncClient) -> None:
        left, sent = asyncio.Event(), []

        async def receive() -> dict[str, Any]:
            if not sent:
                sent.append(True)
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError("nobody is there")

        made.engine.gate.clear()
        first = asyncio.ensure_future(client.post("/predict", json=GOOD))
        await soon(lambda: made.metrics.accepted == 1 and made.batcher.waiting == 0)
        leaving = asyncio.ensure_future(made.app(scope, receive, send))  # type: ignore[arg-type]
        await soon(lambda: made.batcher.waiting == 3)
        left.set()
        await leaving
        assert made.batcher.waiting == 0 and made.app.in_flight == 1
        made.engine.gate.set()
        assert (await first).status_code == 200
        assert (await client.post("/predict", json={**GOOD, "text": "after"})).status_code == 200

    made.run(work)
    assert made.engine.batches == [["good film"], ["after"]] and made.told == []
    assert made.metrics.requests["/predict", 499] == 1
    assert (made.metrics.accepted, made.metrics.answered, made.metrics.hung_up) == (3, 2, 1)


def test_a_body_that_does_not_come_ends_in_408() -> None:
    async def parts() -> Any:
        yield b"{"
        await asyncio.sleep(1)

    made = Made(body_seconds=0.05)
    answer = made.ask("POST", "/predict", content=parts(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, is_line(answer), answer.headers["connection"]) == (408, True, "close")


def test_one_adapter_that_fails_does_not_fail_its_batch() -> None:
    made = Made(wait_seconds=0.2)

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [
            GOOD, {"adapter": "task=rte", "text": "b", "text_pair": "reak"},
            {"adapter": "task=stsb", "text": "g", "text_pair": "one"}, [GOOD, {**GOOD, "text": "unreadable"}],
        ]  # fmt: skip
        return await asyncio.gather(*(client.post("/predict", json=body) for body in bodies))

    good, broken, gone, unreadable = made.run(work)
    assert [one.status_code for one in (good, broken, gone, unreadable)] == [200, 500, 500, 422]
    assert broken.json()["error"] == "the engine failed on this request: the server's console says why"
    assert gone.json()["error"] == "cell x: its file is gone"
    assert sorted(made.told) == ["cell x: its file is gone", "the engine failed: RuntimeError: no memory"]


def test_from_the_stop_on_nothing_new_is_taken_and_all_that_was_is_answered() -> None:
    made = Made()

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        made.engine.gate.clear()
        before = asyncio.ensure_future(client.post("/predict", json=GOOD))
        await soon(lambda: made.metrics.accepted == 1)
        made.app.is_stopping = True
        after = [await client.post("/predict", json=GOOD), await client.get("/health"), await client.get("/adapters")]
        made.engine.gate.set()
        return [await before, *after]

    answered, *refused = made.run(work)
    assert answered.status_code == 200
    for one in (answered, *refused):
        assert one.headers["connection"] == "close"
    assert [(one.status_code, is_line(one)) for one in refused] == [(503, True)] * 3


def test_health_says_when_the_engine_has_ended() -> None:
    made = Made()

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        made.batcher.close()
        return await client.get("/health")

    answer = made.run(work)
    assert (answer.status_code, is_line(answer)) == (503, True)


def test_metrics_are_prometheus_text_and_add_up() -> None:
    made = Made(Toy(pause=0.02))

    async def work(client: httpx.AsyncClient) -> str:
        for body in (GOOD, [GOOD] * 3, {}):
            await client.post("/predict", json=body)
        await client.get("/secret-path%0A")
        return (await client.get("/metrics")).text

    values, kinds = {}, {}
    for line in made.run(work).splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            found = re.fullmatch(r'([a-z][a-z0-9_]*)(\{(?:[a-z]+="[^"\\\n]*",?)*\})? (\S+)', line)
            assert found is not None, line
            family = found[1] if found[1] in kinds else re.sub("_(bucket|sum|count)$", "", found[1])
            assert family in kinds, line
            values[found[1] + (found[2] or "")] = float(found[3])
    name = "lora2_bench_requests_total"
    assert values[f'{name}{{path="/predict",status="200"}}'] == 2
    assert values[f'{name}{{path="/predict",status="422"}}'] == 1
    assert values[f'{name}{{path="other",status="404"}}'] == 1
    assert (values["lora2_bench_accepted_total"], values["lora2_bench_answered_total"]) == (2, 2)
    assert (values["lora2_bench_queue_rows"], values["lora2_bench_in_flight_requests"]) == (0, 1)
    assert (values["lora2_bench_batch_rows_sum"], values["lora2_bench_batch_rows_count"]) == (4, 2)
    assert values['lora2_bench_batch_rows_bucket{le="1"}'] == 1
    assert values['lora2_bench_batch_rows_bucket{le="4"}'] == values['lora2_bench_batch_rows_bucket{le="+Inf"}'] == 2
    assert values["lora2_bench_predict_seconds_count"] == 2 and values["lora2_bench_predict_seconds_sum"] >= 0.04
    assert {kinds[one] for one in kinds if one.endswith("_total")} == {"counter"}
