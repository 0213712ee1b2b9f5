"""A cache of tokenised splits, so that a second cell of a task tokenises nothing."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import PreTrainedTokenizerBase

from lora2_bench.errors import first_line
from lora2_bench.files.paths import cache_folder
from lora2_bench.files.writing import write_bytes
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.encoding import EncodedSplit, RaggedRows, check_tokenizer, encode
from lora2_bench.tasks.spec import TaskSpec


def encoder(
    tokenizer: PreTrainedTokenizerBase, sha256: str | None, spec: TaskSpec, max_length: int
) -> Callable[[Split], EncodedSplit]:
    """A function that tokenises splits of one task, or reads them from the cache.

    `sha256` is that of the tokenizer's files; nothing is kept where it is None. An entry is read as safetensors alone,
    and made anew, with a line on stderr, unless its digest is that of what it holds under its name. A cache that
    cannot be written is told on stderr, and costs nothing but the time of the next cell.
    """
    pad = check_tokenizer(tokenizer, max_length)

    def encoded(split: Split) -> EncodedSplit:
        if sha256 is None:
            return encode(split, spec, tokenizer, max_length)
        if (folder := cache_folder()) is None:
            print("warning: this account has no home: tokens are not cached", file=sys.stderr)
            return encode(split, spec, tokenizer, max_length)
        path = folder / "tokens" / f"{_key(sha256, split, spec, max_length)}.safetensors"
        if (cached := _read(path, split, pad)) is not None:
            return cached
        encoded_split = encode(split, spec, tokenizer, max_length)
        _write(path, encoded_split)
        return encoded_split

    return encoded


def _key(tokenizer_sha256: str, split: Split, spec: TaskSpec, max_length: int) -> str:
    """SHA-256 over all that token ids depend on: the tokenizer's files and library, the texts, and the length."""
    versions = f"{transformers.__version__} {tokenizers.__version__}"
    digest = hashlib.sha256(f"2 {versions} {tokenizer_sha256} {max_length} {len(split)}".encode())
    for name in spec.columns:
        digest.update(array("L", [len(text) for text in split.texts[name]]).tobytes())
        digest.update("".join(split.texts[name]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _read(path: Path, split: Split, pad: tuple[int, int]) -> EncodedSplit | None:
    """What the file at `path` holds; None without one, and for one that is not as it was written, told on stderr."""
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise OSError("it is no file")
        with safe_open(path, "np") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            told = (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, TypeError, ValueError, KeyError) as error:
        why = f"cannot be read ({first_line(error)})"
    else:
        if told == _digest(path.stem, found):
            types = RaggedRows(found["types"], found["ends"]) if "types" in found else None
            return EncodedSplit(RaggedRows(found["ids"], found["ends"]), types, split.labels, pad)
        why = "is not what was written there"
    print(f"warning: {path.name} in the cache {why}: tokenised anew", file=sys.stderr)
    return None


def _digest(key: str, values: dict[str, NDArray[Any]]) -> str:
    """SHA-256 over an entry's key and its arrays (names, types, shapes and numbers)."""
    digest = hashlib.sha256(key.encode())
    for name, numbers in sorted(values.items()):
        digest.update(f"\0{name} {numbers.dtype} {numbers.shape}\0".encode())
        digest.update(np.ascontiguousarray(numbers).data)
    return digest.hexdigest()


def _write(path: Path, made: EncodedSplit) -> None:
    values: dict[str, NDArray[Any]] = {"ids": made.input_ids.values, "ends": made.input_ids.ends}
    if made.token_type_ids is not None:
        values["types"] = made.token_type_ids.values
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(values, {"sha256": _digest(path.stem, values)}))
    except OSError as error:
        reason = error.strerror or error
        print(f"warning: {path.parent} cannot be written ({reason}): the next cell tokenises again", file=sys.stderr)
