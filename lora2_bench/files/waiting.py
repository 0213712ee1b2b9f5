"""How the threads of OpenMP wait for each other: told before torch is imported, for its runtime reads it once."""

from __future__ import annotations

import os

SHORT_WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""Some 20 microseconds of GNU's runtime, which a thread on an idle core needs to be there; others sleep at once."""
VARIABLES = (*SHORT_WAIT, "KMP_BLOCKTIME")


def wait_shortly() -> None:
    """Let threads that wait look for a short while and then sleep, unless the environment says how they wait.

    By default they spin for milliseconds at the end of every parallel region, of which a step has hundreds. Where
    another process has one of their cores, they spin away the time that the last of them needs to get there. Where none
    has, to sleep at once costs a sixth of a step, for a thread that sleeps has to be woken.
    """
    if not any(name in os.environ for name in VARIABLES):
        os.environ.update(SHORT_WAIT)
