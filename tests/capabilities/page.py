"""docs/CAPABILITIES.md from docs/capabilities.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.capabilities.cells import CAPABILITIES, PRECISIONS, STEPS, TOLERANCE, starts
from tests.conftest import ARCHITECTURES

NAMES = {"bert": "BERT", "roberta": "RoBERTa", "deberta-v2": "DeBERTa-v2"}
TOP = """# What each method can do

Made by running it: `python scripts/capabilities.py` runs what is missing in `capabilities.json` and writes this page
(`--only METHOD` runs one anew, `--page` writes the page alone). Every cell comes from runs of `python -m lora2_bench`
on tiny random encoders of two layers, {steps} steps each, with {versions}.
A word alone stands for all six runs: {encoders}, in {precisions} each. Where it stands for
fewer, they are named; those that a cell does not name have not been run.

- **starts**: the untrained method gives the backbone's outputs.
- **export**: what a finished cell keeps. `LoRA` or another of PEFT's tuners: plain PEFT reads the folder and gives the
  cell's logits; `weights`: what was trained alone, read back by this package with the cell's logits; `nothing`.
- **merge**: transformers alone reads the folder of `export.merged=true` and gives the cell's logits; `integers`: read
  as [METHODS.md](METHODS.md#qa-lora) says.
- **init_from**: a cell of another seed starts from this one; with its head, its logits before step 1 are this one's.
- **resume**: stopped by SIGTERM in mid-run, the same command ends with the record and predictions of a run that was
  left alone.
- **two processes**: they give the logits that one gives with twice the parts of a batch (`train.accumulate`).

Logits are the same up to {tolerances}.
Largest differences found: {found}.

"""


def page(data: Mapping[str, Any]) -> str:
    """The page of all methods in `data`."""
    lines: list[str] = []
    table = ["| method | starts | " + " | ".join(CAPABILITIES) + " |", "| --- " * (len(CAPABILITIES) + 2) + "|"]
    for name, runs in sorted(data["methods"].items()):
        cells = [_cell(_of(runs, capability), lines) for capability in CAPABILITIES]
        table.append(f"| {name} | {'yes' if starts(name) else 'no'} | {' | '.join(cells)} |")
    notes = [f"{number}. {line}" for number, line in enumerate(lines, start=1)]
    versions = ", ".join(f"{package} {version}" for package, version in data["versions"].items())
    top = TOP.format(
        steps=STEPS,
        versions=versions,
        encoders=", ".join(NAMES.values()),
        precisions=" and ".join(PRECISIONS),
        tolerances=", ".join(f"{TOLERANCE[capability]:g} ({capability})" for capability in CAPABILITIES),
        found=", ".join(f"{_largest(data, capability):g} ({capability})" for capability in CAPABILITIES),
    )
    return top + "\n".join(table) + "\n\nThe lines of what is refused:\n\n" + "\n".join(notes) + "\n"


def _of(runs: Mapping[str, Any], capability: str) -> dict[str, Any]:
    """Run -> its answer, for the runs that have one."""
    return {run: answers[capability] for run, answers in runs.items() if capability in answers}


def _largest(data: Mapping[str, Any], capability: str) -> float:
    every = [answer for runs in data["methods"].values() for answer in _of(runs, capability).values()]
    return max((answer.get("difference", 0.0) for answer in every if answer["word"] != "differs"), default=0.0)


def _cell(runs: Mapping[str, Mapping[str, Any]], lines: list[str]) -> str:
    """One cell: a word for all runs, or each word with the runs that it is of; footnotes go to `lines`."""
    groups: dict[str, list[str]] = {}
    for run, answer in runs.items():
        word = answer["word"]
        if word == "differs":
            word = f"differs by {answer['difference']:g}"
        if line := answer.get("line"):
            if line not in lines:
                lines.append(line)
            word += f" [{lines.index(line) + 1}]"
        groups.setdefault(word, []).append(run)
    if len(groups) == 1 and len(runs) == len(ARCHITECTURES) * len(PRECISIONS):
        return next(iter(groups))
    return "; ".join(f"{word} ({_shown(where)})" for word, where in groups.items()) or "not run"


def _shown(runs: list[str]) -> str:
    """The encoders of some runs; with a precision where only one is among them."""
    shown = []
    for architecture in ARCHITECTURES:
        found = [run.split()[1] for run in runs if run.split()[0] == architecture]
        if found:
            shown.append(NAMES[architecture] + ("" if len(found) == len(PRECISIONS) else f" {found[0]}"))
    return ", ".join(shown)
