"""Fill the Hugging Face cache with GLUE and the pinned backbones, for machines without a network.

    python scripts/prefetch.py [--tasks rte mrpc ...] [--models roberta_base ...]

Without options, all tasks and all models of conf/model/ that come from the hub; `--models` alone means none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from lora2_bench.errors import UserError
from lora2_bench.files.hub import model_snapshot, why_unreachable
from lora2_bench.tasks.hub import HUB_ID, load_hub
from lora2_bench.tasks.sources import load_test_rows
from lora2_bench.tasks.spec import TASKS, task_spec

MODEL_CONFIGS = Path(__file__).resolve().parent.parent / "conf" / "model"


def hub_models(folder: Path) -> dict[str, tuple[str, str]]:
    """Config name -> (hub id, revision) for every model config in `folder` whose files come from the hub."""
    models = {}
    for path in sorted(folder.glob("*.yaml")):
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        # A hub id beside another source only says where repackaged weights came from.
        if not isinstance(config, dict) or not config.get("hub_id") or config.get("source", "hub") != "hub":
            continue
        if not config.get("revision"):
            raise UserError(f"{path.name}: {config['hub_id']} has no revision: pin a commit")
        models[path.stem] = (str(config["hub_id"]), str(config["revision"]))
    return models


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and fetch; the exit status is 2 for an error that the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), metavar="TASK", help="default: all of GLUE")
    parser.add_argument("--models", nargs="*", metavar="MODEL", help="names of conf/model/*.yaml; default: all")
    options = parser.parse_args(arguments)
    try:
        models = hub_models(MODEL_CONFIGS)
        wanted = list(models) if options.models is None else options.models
        unknown = [name for name in wanted if name not in models]
        if unknown:
            raise UserError(f"--models {' '.join(unknown)}: choose from {', '.join(models)}")
        reason = why_unreachable()
        if reason is not None:
            raise UserError(f"nothing can be fetched ({reason}): run this where there is a network")
        for spec in [task_spec(name) for name in options.tasks]:
            counts = load_hub(spec).rows | {name: len(rows) for name, rows in load_test_rows(spec.name, "hub").items()}
            rows = ", ".join(f"{name} {count}" for name, count in counts.items())
            print(f"{HUB_ID} {spec.name}: {rows} rows", flush=True)
        for hub_id, revision in (models[name] for name in wanted):
            model_snapshot(hub_id, revision)
            print(f"{hub_id} at {revision}: ready", flush=True)
    except UserError as error:
        print(f"prefetch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
