"""The user's own entry in this process and in two, without pytest."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from tests import forked
from tests.conftest import Told

# The forked processes find all that a cell imports.
PACKAGE = ["lora2_bench.config.launch", "lora2_bench.runner.train_cell", "lora2_bench.methods.peft_tuner"]


def bench(*arguments: str) -> Told:
    """`python -m lora2_bench ARGUMENTS`."""
    from lora2_bench.__main__ import main

    code = 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with mock.patch.object(sys, "argv", ["lora2_bench", *arguments]), redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return Told(code, *texts)


def two_processes(folder: Path, *arguments: str) -> Told:
    """The same in two processes of one group, as `accelerate launch` starts them; the code is the main one's."""
    for name in PACKAGE:
        if name not in forked.LIBRARIES:
            forked.LIBRARIES.append(name)
    codes, out, err = forked.run_ranks(folder, *arguments, timeout=120.0)
    return Told(codes[0], out, err)


@contextmanager
def replaced(target: str, by: Any) -> Iterator[None]:
    """A function of the package replaced by another for a while; `by` gets the old one first."""
    module, _, name = target.rpartition(".")
    import importlib

    old = getattr(importlib.import_module(module), name)
    with mock.patch(target, lambda *arguments, **named: by(old, *arguments, **named)):
        yield
