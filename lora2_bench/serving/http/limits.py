"""How much the server takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of requests, of the queue and of a batch.

    Attributes:
        body_bytes: bytes of a body.
        rows: rows of one request.
        characters: characters of one text. What is longer than the cell's max_length is cut, as in training.
        queue_rows: rows that may wait for a batch.
        batch_rows: rows of a batch.
        wait_seconds: how long the oldest row waits for others to join its batch.
        body_seconds: how long a body may take to come.
        held_bytes: bytes of all bodies whose requests have no answer yet.
    """

    body_bytes: int = 2**20
    rows: int = 256
    characters: int = 20_000
    queue_rows: int = 1024
    batch_rows: int = 64
    wait_seconds: float = 0.005
    body_seconds: float = 10.0
    held_bytes: int = 64 * 2**20
