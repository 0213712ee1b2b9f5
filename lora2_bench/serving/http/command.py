"""`lora2-bench serve`: the HTTP server of a kept library, see docs/SERVING.md."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from lora2_bench.errors import UserError, one_line_of
from lora2_bench.files.arguments import OneLineParser, folder, program, whole_number
from lora2_bench.serving.http.guard import TOKEN_VARIABLE, Guard, is_loopback, read_token
from lora2_bench.serving.http.limits import Limits
from lora2_bench.serving.library import Library

_LISTED = 3  # adapters that cannot be served, told one by one
_MOST_TOLD = 200  # lines on standard error: a failure that clients can bring about fills no disk


def main() -> None:
    """The entry of `serve`. Exit codes: 0 after a clean stop, 1 after one that lost requests, 2 for bad input."""
    parser = _parser()
    given = parser.read()
    limits = Limits(
        body_bytes=given.max_body * 1024,
        rows=given.max_rows,
        characters=given.max_characters,
        queue_rows=given.queue_rows,
        batch_rows=given.batch_rows,
        wait_seconds=given.wait_ms / 1000,
    )
    if limits.rows > limits.queue_rows:
        parser.stop(f"--max-rows {limits.rows} is more than --queue-rows {limits.queue_rows}: give as many at most")
    if find_spec("uvicorn") is None:
        parser.stop("serve needs uvicorn, which is not installed: pip install 'lora2-bench[serve]'")
    try:
        code = _serve(given, limits)
    except UserError as error:
        parser.stop(str(error))
    sys.exit(code)


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog=program("lora2_bench serve"),
        description="Answer HTTP requests with the adapters of the finished cells below a results folder, over one "
        "frozen backbone: POST /predict, GET /adapters, /health, /metrics, and a page at /. Ctrl-C or SIGTERM stops it "
        "when every accepted request is answered.",
    )
    own = Limits()
    many = whole_number(1, 10**6)
    parser.add_argument("--results", type=folder, default=Path("results"), help="the cells to serve (results)")
    parser.add_argument("--model", help="the backbone, where the cells are of several")
    parser.add_argument("--base", metavar="DIR", help="the backbone's folder, for cells of model=local")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address; others than loopback need a token (127.0.0.1)"
    )
    parser.add_argument("--port", type=whole_number(0, 65535), default=8000, help="0: any that is free (8000)")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"holds the token that requests must bear; or the environment's {TOKEN_VARIABLE}",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=whole_number(1, 1024), help="CPU threads (default: all cores)")
    parser.add_argument("--memory", type=many, default=1024, metavar="MIB", help="of adapters in memory (1024)")
    parser.add_argument(
        "--batch-rows",
        type=many,
        default=own.batch_rows,
        metavar="N",
        help=f"most rows of a batch ({own.batch_rows})",
    )
    parser.add_argument(
        "--wait-ms", type=whole_number(0, 10_000), default=5, metavar="N", help="a row waits so long for others (5)"
    )
    parser.add_argument(
        "--queue-rows", type=many, default=own.queue_rows, metavar="N", help=f"rows that may wait ({own.queue_rows})"
    )
    parser.add_argument(
        "--max-rows", type=many, default=own.rows, metavar="N", help=f"rows of one request ({own.rows})"
    )
    parser.add_argument(
        "--max-characters", type=many, default=own.characters, metavar="N", help=f"of one text ({own.characters})"
    )
    parser.add_argument(
        "--max-body", type=whole_number(1, 65536), default=1024, metavar="KIB", help="of one request's body (1024)"
    )
    return parser


def _serve(given: argparse.Namespace, limits: Limits) -> int:
    """Serve until a signal; returns the exit code. Raises UserError before the first request."""
    from lora2_bench.serving.http.server import Served, bind  # uvicorn is an extra

    token = read_token(given.token_file)
    made = bind(given.host, given.port)
    with made:
        address, port = made.getsockname()[:2]
        if token is None and not is_loopback(address):
            raise UserError(
                f"--host {given.host} can be reached by others: give --token-file FILE or {TOKEN_VARIABLE}, or leave "
                "--host out"
            )
        library = Library(given.results, given.model, model_path=given.base)
        if library.backbone is None:
            raise UserError(library.nothing())
        # oneDNN keeps what it has compiled for each shape, and every batch has its own: memory grew by 5 % in 10,000
        # requests, and is flat without. oneDNN reads it once, when it first computes.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")
        from lora2_bench.serving.engine import Engine  # torch takes seconds: what is wrong above is told before

        engine = Engine(library, memory=given.memory * 2**20, device=given.device, threads=given.threads)
        console = _Console()
        for name, why in list(library.refused.items())[:_LISTED]:
            print(f"not served: {name}: {why}", file=sys.stderr)
        if len(library.refused) > _LISTED:
            print(f"not served: {len(library.refused) - _LISTED} more, see /adapters", file=sys.stderr)
        served = Served(library, engine, Guard(token, is_loopback(address)), limits, console.tell)
        try:
            made.listen(2048)
        except OSError as error:
            raise UserError(f"--port {port} of {given.host} cannot be had ({error.strerror}): give another") from None
        host = f"[{address}]" if ":" in address else address
        count = len(library.entries)
        print(f"{count} adapter{'s' if count > 1 else ''} at http://{host}:{port}/ (Ctrl-C stops)", flush=True)
        return served.run(made)


class _Console:
    """Standard error, a line an error, and each line once."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def tell(self, line: str) -> None:
        """Print a line."""
        line = one_line_of(line)
        with self._lock:
            if line not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add(line)
                print(f"error: {line}", file=sys.stderr, flush=True)
