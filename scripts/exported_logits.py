"""Every method's exported folder, loaded by transformers and PEFT alone, against the cell's stored predictions.

    python scripts/exported_logits.py [--methods lora,lora2] [--task sst2] [--steps 40] [--rows 200] [--results DIR]

Trains a cell of each method on MiniLM on a generated task, by its recipe but for the steps, with `keep=weights`; writes
its folder as `lora2-bench export` does, as an adapter and merged where it can be; and reads all of them in another
process, offline, which never imports this package. Prints a Markdown table: the largest difference of any logit to the
stored ones, of how many dev rows the prediction is theirs, and their standard deviation. With `--results`
the cells are kept, and a second call trains no finished one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import lora2_bench
from lora2_bench.errors import UserError
from lora2_bench.files.paths import CONF
from lora2_bench.records.predictions import read_predictions
from lora2_bench.records.store import Store
from lora2_bench.runner.opened import open_cell
from lora2_bench.runner.rows import sample
from lora2_bench.tasks.sources import load_task
from lora2_bench.using.folder import write_folder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' reader

from tests.using.plain import read_plainly

FORMS = {"as it is": False, "merged": True}
METHODS = sorted({path.stem for path in (CONF / "method").glob("*.yaml")} - {"peft"})  # which needs settings


def main() -> None:
    """Train, export, read, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=200, help="of dev")
    parser.add_argument("--results", type=Path, help="where the cells are kept (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="exported-logits-") as place:
        results = given.results or Path(place) / "results"
        stored: dict[str, Any] = {}
        folders: dict[str, dict[str, str]] = {}  # method -> form -> folder
        libraries: dict[str, str] = {}  # which read the folder as it is
        refused = []
        for method in given.methods.split(","):
            with contextlib.redirect_stdout(io.StringIO()):
                record = train(method, given, results)
            path = Store(results).folder(record.id) / "predictions.json"
            stored[method] = read_predictions(path)["dev"].logits["best"].astype(np.float64)
            plan, record = open_cell(results, record.id, device="cpu", threads=1)
            for form, merged in FORMS.items():
                out = Path(place) / f"{method}-{merged}"
                try:
                    library = write_folder(plan, record, out, merged)
                except UserError as error:
                    refused.append(f"{method}, {form}: {error}")
                    continue
                libraries.setdefault(method, library)
                folders.setdefault(method, {})[form] = str(out)
        dev = sample(load_task(given.task, "mini").splits["dev"], given.rows)
        rows = [list(row) for row in zip(*dev.texts.values(), strict=True)]
        found = read_plainly(rows, [Path(out) for of in folders.values() for out in of.values()], Path(place))
    print("| method | read by | difference | merged | same predictions | sd of the logits |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for method, ours in stored.items():
        theirs = {form: np.asarray(found[out]["logits"]) for form, out in folders.get(method, {}).items()}
        apart = [f"{abs(ours - theirs[form]).max():.1e}" if form in theirs else "–" for form in FORMS]
        same = min(((ours.argmax(1) == one.argmax(1)).sum() for one in theirs.values()), default=0)
        shown = [libraries.get(method, "–"), *apart, f"{same} of {len(ours)}" if theirs else "–", f"{ours.std():.2f}"]
        print(f"| {method} | {' | '.join(shown)} |")
    print("", *refused, sep="\n")


def train(method: str, given: argparse.Namespace, results: Path) -> Any:
    """The record of a cell of this method."""
    words = (f"method={method}", f"task={given.task}", f"train.max_steps={given.steps}", f"data.max_eval={given.rows}")
    return lora2_bench.run(*words, keep="weights", results=str(results), device="cpu", threads=1)


if __name__ == "__main__":
    main()
