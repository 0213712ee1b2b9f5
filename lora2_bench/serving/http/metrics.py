"""What the server counts, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

KIND = b"text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "lora2_bench"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Histogram:
    """Values counted in buckets; a value belongs to the first bound that it does not exceed. One thread observes."""

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self._name, self._about, self._bounds = f"{_PREFIX}_{name}", about, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """Their sum."""
        return self._sum

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        """The histogram's lines: buckets hold what is below them too."""
        counts, total = list(self._counts), 0  # a copy: the engine's thread goes on counting
        lines = [f"# HELP {self._name} {self._about}", f"# TYPE {self._name} histogram"]
        for bound, count in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
            total += count
            lines.append(f'{self._name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{self._name}_sum {self._sum:.9g}", f"{self._name}_count {total}"]


class Metrics:
    """The server's counts. Batches are observed by the engine's thread, all else by the event loop's.

    Attributes:
        requests: answered requests by path and status; 499 for a client that hung up before its answer.
        accepted: requests of /predict that were let into the queue.
        answered: of these, the ones that were answered, errors included.
        hung_up: of these, the ones whose client was gone before.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.accepted = self.answered = self.hung_up = 0
        self.request_seconds = Histogram(
            "predict_seconds",
            "Seconds from a request's first byte to its answer, of /predict answered with 200.",
            _SECONDS,
        )
        self.batch_rows = Histogram("batch_rows", "Rows of one batch.", _ROWS)
        self.batch_seconds = Histogram("batch_seconds", "Seconds of the engine for one batch.", _SECONDS)

    @property
    def unanswered(self) -> int:
        """Accepted requests that have no answer yet, and whose client is there."""
        return self.accepted - self.answered - self.hung_up

    def text(self, queue_rows: int, in_flight: int, adapters: int) -> bytes:
        """All of it, with what stands at the moment."""
        lines = _family("requests_total", "counter", "Requests by path and status (499: the client hung up).")
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'{_PREFIX}_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, kind, about, value in (
            ("accepted_total", "counter", "Requests of /predict that were let into the queue.", self.accepted),
            ("answered_total", "counter", "Accepted requests that were answered.", self.answered),
            ("hung_up_total", "counter", "Accepted requests whose client was gone before its answer.", self.hung_up),
            ("queue_rows", "gauge", "Rows that wait for a batch.", queue_rows),
            ("in_flight_requests", "gauge", "Requests without an answer yet.", in_flight),
            ("adapters", "gauge", "Adapters that can be asked for.", adapters),
        ):
            lines += [*_family(name, kind, about), f"{_PREFIX}_{name} {value}"]
        for histogram in (self.batch_rows, self.batch_seconds, self.request_seconds):
            lines += histogram.lines()
        return ("\n".join(lines) + "\n").encode()


def _family(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {_PREFIX}_{name} {about}", f"# TYPE {_PREFIX}_{name} {kind}"]
