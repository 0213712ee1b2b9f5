"""Requests a second and latency of a real `lora2-bench serve` on loopback, by the number of adapters in turn.

Run on an idle machine: python scripts/bench_http.py [--adapters 1,8,64,512,2000] [--requests 2000] [--clients 64]. The
cells are those of bench_serving.py: LoRA on MiniLM at ranks 1 to 16, in a temporary folder (1.6 MB a cell).

Each number of adapters has a server of its own. Every adapter is asked for once, unmeasured, and then `--requests`
requests of one row are sent for adapters drawn evenly, by clients that each wait for their answer, all on this
machine. Seconds are the clock's, from the first byte of a request to the last of its answer. Exit code 1 where a
request has another status than 200.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from bench_serving import make_elsewhere
from soak_serving import Request, Tally, fetch, load, post, quantile

from lora2_bench.tasks.sources import load_task

SERVE = ("--port", "0", "--device", "cpu", "--memory", "8192", "--batch-rows")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", default="1,8,64,512,2000", help="numbers of adapters")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=64, help="at a time, and most rows of a batch")
    parser.add_argument("--threads", type=int, default=1, help="of the server's engine")
    given = parser.parse_args()
    counts = [int(part) for part in given.adapters.split(",")]
    with tempfile.TemporaryDirectory(prefix="bench-http-") as place:
        make_elsewhere(Path(place), max(counts))
        told = ["adapters", "requests/s", "latency 50 / 95 / 99 % (ms)", "rows a batch", "MiB of the server"]
        print(f"| {' | '.join(told)} |\n|{' --- |' * len(told)}")
        for count in counts:
            print(measured(Path(place), count, given), flush=True)


def measured(results: Path, count: int, given: argparse.Namespace) -> str:
    """One line of the table, of a server of its own."""
    words = ["--results", str(results), *SERVE, str(given.clients), "--threads", str(given.threads)]
    command = [sys.executable, "-m", "lora2_bench", "serve", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", first)
            if not found:
                sys.exit(f"error: the server did not start: {first.strip()}")
            port, draw = int(found[1]), random.Random(0)
            names = [one["id"] for one in json.loads(fetch(port, "/adapters"))["adapters"]][:count]
            texts = _texts()
            sent(port, (_request(name, draw.choice(texts)) for name in names), given.clients)
            before, begun = batches(port), time.monotonic()
            drawn = (_request(draw.choice(names), draw.choice(texts)) for _ in range(given.requests))
            tally = sent(port, drawn, given.clients)
            seconds, after = time.monotonic() - begun, batches(port)
            memory = psutil.Process(server.pid).memory_info().rss / 2**20
        finally:
            server.terminate()
    latency = " / ".join(f"{1e3 * quantile(tally.seconds, share):.0f}" for share in (0.5, 0.95, 0.99))
    rows = (after[0] - before[0]) / (after[1] - before[1])
    return f"| {count:,} | {given.requests / seconds:.0f} | {latency} | {rows:.0f} | {memory:,.0f} |"


def sent(port: int, requests: Iterator[Request], clients: int) -> Tally:
    """All of them sent and answered; ends the process where one was not answered with 200."""
    tally = asyncio.run(load(port, requests, clients, lambda _: None))
    if tally.wrong:
        sys.exit(f"error: {len(tally.wrong)} requests were not answered with 200: {tally.wrong[0]}")
    return tally


def batches(port: int) -> tuple[float, float]:
    """Rows of all batches so far, and batches, by the server's own metrics."""
    text = fetch(port, "/metrics")
    found = [re.search(rf"^lora2_bench_batch_rows_{name} (\S+)", text, re.MULTILINE) for name in ("sum", "count")]
    rows, count = (float(one[1]) for one in found if one)
    return rows, count


def _texts() -> list[tuple[str, str]]:
    """Pairs as bench_serving.py asks for: the generated task's dev rows, each text twice."""
    columns: Sequence[Sequence[str]] = [*load_task("rte", "mini").splits["dev"].texts.values()]
    return [(f"{first} {first}", f"{second} {second}") for first, second in zip(*columns, strict=True)]


def _request(name: str, texts: tuple[str, str]) -> Request:
    row: dict[str, Any] = {"adapter": name, "text": texts[0], "text_pair": texts[1]}
    return Request("good", post(json.dumps(row).encode()), (200,))


if __name__ == "__main__":
    main()
