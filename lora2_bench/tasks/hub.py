"""GLUE from the Hugging Face hub at a pinned revision."""

from __future__ import annotations

from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.files.hub import cached, fetch, why_unreachable
from lora2_bench.tasks.data import TaskData
from lora2_bench.tasks.parquet import hub_split, missing_parquet, read_parquet
from lora2_bench.tasks.spec import TaskSpec

HUB_ID = "nyu-mll/glue"
HUB_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


def load_hub(spec: TaskSpec) -> TaskData:
    """Read a task's labelled splits from `nyu-mll/glue` at HUB_REVISION.

    No request is made if the cache holds all the files, or under HF_HUB_OFFLINE=1.

    Raises:
        UserError: the files are not in the cache and the hub does not answer (within 10 s), or a file is malformed.
    """
    folder = find_hub(spec)
    return TaskData(spec, "hub", read_parquet(spec, _download(spec) if folder is None else folder))


def find_hub(spec: TaskSpec) -> Path | None:
    """The task's folder in the hub cache; None where its files have to be fetched, and can be.

    Raises UserError where they are not cached and the hub does not answer (within 10 s).
    """
    snapshot = cached(HUB_ID, "dataset", HUB_REVISION, _patterns(spec))
    # The snapshot's folder may hold other tasks only, or a part of this one.
    if snapshot is not None and not missing_parquet(spec, snapshot / spec.name):
        return snapshot / spec.name
    if (reason := why_unreachable()) is not None:
        raise _unavailable(spec, reason)
    return None


def _patterns(spec: TaskSpec) -> list[str]:
    """The labelled splits only: the test splits have no labels."""
    return [f"{spec.name}/{hub_split(split)}-*.parquet" for split in spec.splits]


def _download(spec: TaskSpec) -> Path:
    """Fetch the task's files into the hub cache, and return its folder there."""
    try:
        folder = fetch(HUB_ID, "dataset", HUB_REVISION, _patterns(spec)) / spec.name
    except UserError as error:
        raise _unavailable(spec, str(error)) from None
    if missing := missing_parquet(spec, folder):
        raise _unavailable(spec, f"the revision lacks {', '.join(missing)}")
    return folder


def _unavailable(spec: TaskSpec, reason: str) -> UserError:
    return UserError(
        f"{HUB_ID} {spec.name} is not in the hub cache and could not be fetched ({reason}): fill the cache where there "
        "is a network (`make prefetch`), set GLUE_DIR and use data=local, or use data=mini"
    )
