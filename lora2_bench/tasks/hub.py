"""GLUE from the Hugging Face hub at a pinned revision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.files.hub import cached, fetch, why_unreachable
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.parquet import hub_split, missing_parquet, read_parquet, read_test_parquet
from lora2_bench.tasks.spec import TaskSpec

HUB_ID = "nyu-mll/glue"
HUB_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


def load_hub(spec: TaskSpec) -> TaskData:
    """Read a task's labelled splits from `nyu-mll/glue` at HUB_REVISION.

    No request is made if the cache holds all the files, or under HF_HUB_OFFLINE=1.

    Raises:
        UserError: the files are not in the cache and the hub does not answer (within 10 s), or a file is malformed.
    """
    return TaskData(spec, "hub", read_parquet(spec, _folder(spec, spec.splits)))


def load_hub_test(spec: TaskSpec, split: str) -> Split:
    """Read one split without labels, as `load_hub` reads the others: each row's label is -1."""
    return read_test_parquet(spec, _folder(spec, (split,)), split)


def _folder(spec: TaskSpec, splits: Sequence[str]) -> Path:
    """The task's folder in the hub cache, with the files of these splits and no others fetched."""
    patterns = [f"{spec.name}/{hub_split(split)}-*.parquet" for split in splits]
    snapshot = cached(HUB_ID, "dataset", HUB_REVISION, patterns)
    # The snapshot's folder may hold other tasks only, or a part of this one.
    folder = None if snapshot is None else snapshot / spec.name
    return _download(spec, splits, patterns) if folder is None or missing_parquet(splits, folder) else folder


def _download(spec: TaskSpec, splits: Sequence[str], patterns: list[str]) -> Path:
    """Fetch these splits into the hub cache, and return the task's folder there."""
    reason = why_unreachable()
    if reason is None:
        try:
            folder = fetch(HUB_ID, "dataset", HUB_REVISION, patterns) / spec.name
        except UserError as error:
            reason = str(error)
        else:
            missing = missing_parquet(splits, folder)
            if not missing:
                return folder
            reason = f"the revision lacks {', '.join(missing)}"
    raise UserError(
        f"{HUB_ID} {spec.name} is not in the hub cache and could not be fetched ({reason}): fill the cache where there "
        "is a network (`make prefetch`), set GLUE_DIR and use data=local, or use data=mini"
    )
