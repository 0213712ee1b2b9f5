"""The command that makes the matrix, run by run, and goes on where it was stopped."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2_bench.files.writing import write_json
from tests.capabilities.cells import CAPABILITIES, quiet_backbone, try_out
from tests.capabilities.page import page
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import METHODS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PACKAGES = ("torch", "transformers", "peft")
# Every method on one encoder first, and on the most different one next.
ORDER = (
    ("bert", "fp32"),
    ("deberta-v2", "bf16"),
    ("roberta", "fp32"),
    ("bert", "bf16"),
    ("deberta-v2", "fp32"),
    ("roberta", "bf16"),
)
DATA, PAGE = DOCS / "capabilities.json", DOCS / "CAPABILITIES.md"


def read() -> dict[str, Any]:
    """The matrix as it stands."""
    if DATA.exists():
        data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
        return data
    return {"versions": {}, "methods": {}}


def main() -> None:
    """Run what is missing, or anew what --only names; write the data after each run, and the page at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="METHOD", help="run these anew, and no others")
    parser.add_argument("--asked", nargs="+", choices=CAPABILITIES, default=CAPABILITIES, help="answer these alone")
    parser.add_argument("--page", action="store_true", help="run nothing: write the page from the data")
    options = parser.parse_args()
    methods = [] if options.page else options.only or METHODS
    with tempfile.TemporaryDirectory(prefix="capabilities-") as place:
        folders = {kind: quiet_backbone(kind, Path(place) / kind) for kind in ARCHITECTURES} if methods else {}
        for architecture, precision in ORDER:
            for name in methods:
                known = read()["methods"].get(name, {}).get(f"{architecture} {precision}", {})
                asked = [one for one in options.asked if options.only or one not in known]
                if asked:
                    add(name, architecture, precision, folders[architecture], asked)
    PAGE.write_text(page(read()), encoding="utf-8")
    print(f"written: {PAGE}")


def add(name: str, architecture: str, precision: str, backbone: Path, asked: Sequence[str]) -> None:
    """Run one method on one encoder, and put its answers into the data."""
    started = time.perf_counter()
    answers = try_out(name, architecture, precision, backbone, *asked)
    words = ", ".join(f"{capability} {answer['word']}" for capability, answer in answers.items())
    print(f"{name} {architecture} {precision}: {words} ({time.perf_counter() - started:.1f} s)", flush=True)
    data = read()
    data["versions"] = {package: importlib.metadata.version(package) for package in PACKAGES}
    data["methods"].setdefault(name, {}).setdefault(f"{architecture} {precision}", {}).update(answers)
    data["methods"] = dict(sorted(data["methods"].items()))
    write_json(DATA, data)
