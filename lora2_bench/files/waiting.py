"""How the threads of OpenMP wait for each other: told before torch is imported, for its runtime reads it once."""

from __future__ import annotations

import os

_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_asleep() -> None:
    """Let threads sleep where they wait, unless the environment says how they wait.

    By default they spin for milliseconds at the end of every parallel region, of which a step has hundreds. Where
    another process has one of their cores, they spin away the time that the last of them needs to get there.
    """
    if not any(name in os.environ for name in _VARIABLES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
