"""GLUE from the Hugging Face hub at a pinned revision: the local cache first, the network only for what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import TaskData
from lora2_bench.tasks.local import hub_split, missing_parquet, read_parquet
from lora2_bench.tasks.spec import TaskSpec, task_spec

HUB_ID = "nyu-mll/glue"
HUB_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"

# What a backbone needs: configuration, tokenizer and weights, the latter never as a pickle.
_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
# The client retries an unreachable hub for over 20 s, and longer where packets vanish: so ask once, briefly, before.
_ANSWER_SECONDS = 5.0


def load_hub(spec: TaskSpec) -> TaskData:
    """Read a task's labelled splits from `nyu-mll/glue` at HUB_REVISION.

    No request is made if the cache holds all the files, or under HF_HUB_OFFLINE=1.

    Raises:
        UserError: the files are not in the cache and the hub does not answer (within 10 s), or a file is malformed.
    """
    folder = _cached_folder(spec)
    if folder is None:
        folder = _download_task(spec)
    return TaskData(spec, "hub", read_parquet(spec, folder))


def prefetch(tasks: Sequence[str], models: Sequence[tuple[str, str]]) -> None:
    """Fill the hub cache for machines without a network, and say on stdout what is there.

    Args:
        tasks: task names.
        models: (hub id, revision) of backbones; configuration, tokenizer and safetensors weights are fetched.

    Raises:
        UserError: a task is unknown, the hub does not answer, or (after all else is fetched) a model has no
            safetensors weights.
    """
    specs = [task_spec(name) for name in tasks]
    reason = _why_unreachable()
    if reason is not None:
        raise UserError(f"nothing can be fetched ({reason}): run this where there is a network")
    for spec in specs:
        rows = ", ".join(f"{name} {count}" for name, count in load_hub(spec).rows.items())
        print(f"{HUB_ID} {spec.name}: {rows} rows", flush=True)
    unusable = []
    for hub_id, revision in models:
        folder = _fetch(hub_id, "model", revision, list(_MODEL_FILES))
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            print(f"{hub_id} at {revision}: ready", flush=True)
        else:
            unusable.append(f"{hub_id} at {revision}")
    if unusable:
        raise UserError(f"no config.json or no *.safetensors in {', '.join(unusable)}: pin a revision that has both")


def _patterns(spec: TaskSpec) -> list[str]:
    """The files of the labelled splits (the test splits have no labels)."""
    return [f"{spec.name}/{hub_split(split)}-*.parquet" for split in spec.splits]


def _cached_folder(spec: TaskSpec) -> Path | None:
    """The task's folder in the hub cache if every file of its labelled splits is there. No network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            HUB_ID,
            repo_type="dataset",
            revision=HUB_REVISION,
            allow_patterns=_patterns(spec),
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        return None
    # The snapshot's folder may hold other tasks only, or a part of this one.
    folder = Path(snapshot) / spec.name
    return None if missing_parquet(spec, folder) else folder


def _download_task(spec: TaskSpec) -> Path:
    """Fetch the task's files into the hub cache, and return its folder there."""
    reason = _why_unreachable()
    if reason is None:
        try:
            folder = _fetch(HUB_ID, "dataset", HUB_REVISION, _patterns(spec)) / spec.name
        except UserError as error:
            reason = str(error)
        else:
            missing = missing_parquet(spec, folder)
            if not missing:
                return folder
            reason = f"the revision lacks {', '.join(missing)}"
    raise UserError(
        f"{HUB_ID} {spec.name} is not in the hub cache and could not be fetched ({reason}): fill the cache where there "
        "is a network (`make prefetch`), set GLUE_DIR and use data=local, or use data=mini"
    )


def _fetch(hub_id: str, repo_type: str, revision: str, patterns: list[str]) -> Path:
    """Download the top-level or task files that match into the hub cache; any failure is a UserError of one line."""
    from huggingface_hub import snapshot_download

    # A model's subfolders hold exports to other formats (onnx/...), a dataset's hold the tasks.
    nested = ["*/*"] if repo_type == "model" else None
    try:
        return Path(
            snapshot_download(
                hub_id, repo_type=repo_type, revision=revision, allow_patterns=patterns, ignore_patterns=nested
            )
        )
    except Exception as error:  # the client, its HTTP library and the disk have no common class; all end the same way
        raise UserError(f"{hub_id} at {revision}: {_one_line(error)}") from error


def _why_unreachable() -> str | None:
    """Why the hub cannot be used now, or None if it answers. Takes _ANSWER_SECONDS at most."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=_ANSWER_SECONDS).status_code
        except Exception as error:  # whatever went wrong, there was no answer
            outcome.append(f"{constants.ENDPOINT}: {_one_line(error)}")
        else:
            # A proxy that finds no way to the hub answers in its place, with 502 to 504.
            outcome.append(None if status < 500 else f"{constants.ENDPOINT} answers HTTP {status}")

    # A thread of its own, since no timeout covers a name server that does not answer; a daemon, so as to exit freely.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    return outcome[0] if outcome else f"{constants.ENDPOINT} does not answer within {_ANSWER_SECONDS:g} s"


def _one_line(error: Exception) -> str:
    """The error's class and the start of its text, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
