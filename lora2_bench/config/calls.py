"""One cell's overrides, given by a call and not by the command line, as a plan."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lora2_bench.config.arguments import check_arguments, check_processes
from lora2_bench.config.compose import plan_of
from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.files.paths import shortened


def plan_of_call(overrides: Sequence[str]) -> Plan:
    """The plan of one cell, after the checks that the command line's words go through. Raises UserError.

    Hydra's global state is afterwards what it was before.
    """
    for override in overrides:
        if not isinstance(override, str):
            raise UserError(f"{shortened(repr(override))} is no text: give 'NAME=VALUE', or NAME=VALUE as a keyword")
        if override.startswith("-"):
            raise UserError(f"{shortened(override)} is an option of the command line: give NAME=VALUE alone")
        if override.partition("=")[0].lstrip("+") == "suite":
            raise UserError(f"{shortened(override)} is many cells: give it to sweep([...]), or one row=... here")
    check_processes(os.environ)
    check_arguments(overrides)
    return plan_of(overrides)
