"""The Hugging Face hub at pinned revisions: the local cache first, the network only for what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from lora2_bench.errors import UserError

# What a backbone needs: configuration, tokenizer and weights.
_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
# DeBERTaV3 has no other weights on the hub; torch reads them with its weights-only loader, which runs no pickled code.
_PICKLED_WEIGHTS = "pytorch_model.bin"
# The client retries an unreachable hub for over 20 s, and longer where packets vanish: so ask once, briefly, before.
_TIMEOUT_SECONDS = 5.0


def model_snapshot(hub_id: str, revision: str) -> Path:
    """The folder of a backbone's files in the hub cache, fetched where they are not there yet.

    Raises UserError where they are not cached and the hub does not answer (within 10 s), or there are no weights.
    """
    if (found := find_model(hub_id, revision)) is not None:
        return found
    folder = fetch(hub_id, "model", revision, list(_MODEL_FILES))
    if not has_model(folder):
        folder = fetch(hub_id, "model", revision, [_PICKLED_WEIGHTS])
    if not has_model(folder):
        raise UserError(f"{hub_id} at {revision} has no config.json or no weights: pin a revision that has both")
    return folder


def find_model(hub_id: str, revision: str) -> Path | None:
    """The folder of a backbone's files in the hub cache; None where they have to be fetched, and can be.

    Raises UserError where they are not cached and the hub does not answer (within 10 s).
    """
    folder = cached(hub_id, "model", revision, _MODEL_FILES)
    if folder is not None and has_model(folder):
        return folder
    if (reason := why_unreachable()) is not None:
        raise UserError(
            f"{hub_id} is not in the hub cache and could not be fetched ({reason}): fill the cache where there is a "
            "network (`make prefetch`), use model=local model.path=DIR, or model=minilm"
        )
    return None


def has_model(folder: Path) -> bool:
    """True where a folder holds a configuration and weights."""
    weights = any(folder.glob("*.safetensors")) or (folder / _PICKLED_WEIGHTS).is_file()
    return (folder / "config.json").is_file() and weights


def cached(hub_id: str, repo_type: str, revision: str, patterns: Sequence[str]) -> Path | None:
    """The snapshot's folder in the hub cache, which may hold a part of the files only; None without one. No network."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _snapshot(hub_id, repo_type, revision, patterns, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except (HFValidationError, OSError) as error:  # no name of a repository; a cache that cannot be read
        raise UserError(f"{hub_id} at {revision} cannot be looked up ({_one_line(error)}): mend its name") from None


def fetch(hub_id: str, repo_type: str, revision: str, patterns: Sequence[str]) -> Path:
    """Download the top-level or task files that match into the hub cache; any failure is a UserError of one line."""
    try:
        return _snapshot(hub_id, repo_type, revision, patterns, local_files_only=False)
    except Exception as error:  # the client, its HTTP library and the disk have no common class; all end the same way
        raise UserError(f"{hub_id} at {revision}: {_one_line(error)}") from error


def _snapshot(hub_id: str, repo_type: str, revision: str, patterns: Sequence[str], *, local_files_only: bool) -> Path:
    """The client's snapshot folder for the files that match."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            hub_id,
            repo_type=repo_type,
            revision=revision,
            allow_patterns=list(patterns),
            # A model's subfolders hold exports to other formats (onnx/...), a dataset's hold the tasks.
            ignore_patterns=["*/*"] if repo_type == "model" else None,
            local_files_only=local_files_only,
        )
    )


def why_unreachable() -> str | None:
    """Why the hub cannot be used now, or None if it answers. Takes _TIMEOUT_SECONDS at most."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome: list[str | None] = []

    def request() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=_TIMEOUT_SECONDS).status_code
        except Exception as error:  # any error means that there is no answer
            outcome.append(f"{constants.ENDPOINT}: {_one_line(error)}")
        else:
            # A proxy that finds no way to the hub answers in its place, with 502 to 504.
            outcome.append(None if status < 500 else f"{constants.ENDPOINT} answers HTTP {status}")

    # A thread of its own, since no timeout covers a name server that does not answer; a daemon, so as to exit freely.
    thread = Thread(target=request, daemon=True)
    thread.start()
    thread.join(_TIMEOUT_SECONDS)
    return outcome[0] if outcome else f"{constants.ENDPOINT} does not answer within {_TIMEOUT_SECONDS:g} s"


def _one_line(error: Exception) -> str:
    """The error's class and the start of its text, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
