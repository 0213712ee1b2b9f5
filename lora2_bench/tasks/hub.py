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


def find_hub(spec: TaskSpec) -> None:
    """Raise UserError where the task's files are not cached and the hub does not answer (within 10 s)."""
    if _cached(spec, spec.splits) is None and (reason := why_unreachable()) is not None:
        raise _unavailable(spec, reason)


def _folder(spec: TaskSpec, splits: Sequence[str]) -> Path:
    """The task's folder in the hub cache, with the files of these splits and no others fetched."""
    folder = _cached(spec, splits)
    if folder is not None:
        return folder
    if (reason := why_unreachable()) is not None:
        raise _unavailable(spec, reason)
    try:
        folder = fetch(HUB_ID, "dataset", HUB_REVISION, _patterns(spec, splits)) / spec.name
    except UserError as error:
        raise _unavailable(spec, str(error)) from None
    if missing := missing_parquet(splits, folder):
        raise _unavailable(spec, f"the revision lacks {', '.join(missing)}")
    return folder


def _cached(spec: TaskSpec, splits: Sequence[str]) -> Path | None:
    """The task's folder in the hub cache, which may hold other tasks only, or a part of this one: then None."""
    snapshot = cached(HUB_ID, "dataset", HUB_REVISION, _patterns(spec, splits))
    folder = None if snapshot is None else snapshot / spec.name
    return None if folder is None or missing_parquet(splits, folder) else folder


def _patterns(spec: TaskSpec, splits: Sequence[str]) -> list[str]:
    return [f"{spec.name}/{hub_split(split)}-*.parquet" for split in splits]


def _unavailable(spec: TaskSpec, reason: str) -> UserError:
    return UserError(
        f"{HUB_ID} {spec.name} is not in the hub cache and could not be fetched ({reason}): fill the cache where there "
        "is a network (`make prefetch`), set GLUE_DIR and use data=local, or use data=mini"
    )
