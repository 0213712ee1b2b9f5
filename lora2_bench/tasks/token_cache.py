"""A cache of tokenised splits, so that a second cell of a task tokenises nothing."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import tokenizers
import transformers
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from transformers import PreTrainedTokenizerBase

from lora2_bench.files.paths import cache_folder
from lora2_bench.files.writing import write_bytes
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.encoding import EncodedSplit, RaggedRows, check_tokenizer, encode
from lora2_bench.tasks.spec import TaskSpec


def encoder(
    tokenizer: PreTrainedTokenizerBase, sha256: str | None, spec: TaskSpec, max_length: int
) -> Callable[[Split], EncodedSplit]:
    """A function that tokenises splits of one task, or reads them from the cache.

    `sha256` is that of the tokenizer's files; None switches the cache off. Where the cache cannot be written, a warning
    goes to stderr.
    """
    pad = check_tokenizer(tokenizer, max_length)

    def encoded(split: Split) -> EncodedSplit:
        if sha256 is None:
            return encode(split, spec, tokenizer, max_length)
        path = cache_folder() / "tokens" / f"{_key(sha256, split, spec, max_length)}.safetensors"
        if (cached := _read(path, split, pad)) is not None:
            return cached
        encoded_split = encode(split, spec, tokenizer, max_length)
        _write(path, encoded_split)
        return encoded_split

    return encoded


def _key(tokenizer_sha256: str, split: Split, spec: TaskSpec, max_length: int) -> str:
    """SHA-256 over all that token ids depend on: the tokenizer's files and library, the texts, and the length."""
    versions = f"{transformers.__version__} {tokenizers.__version__}"
    digest = hashlib.sha256(f"1 {versions} {tokenizer_sha256} {max_length} {len(split)}".encode())
    for name in spec.columns:
        digest.update(array("L", [len(text) for text in split.texts[name]]).tobytes())
        digest.update("".join(split.texts[name]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _read(path: Path, split: Split, pad: tuple[int, int]) -> EncodedSplit | None:
    try:
        found = load_file(path)
        types = RaggedRows(found["types"], found["ends"]) if "types" in found else None
        return EncodedSplit(RaggedRows(found["ids"], found["ends"]), types, split.labels, pad)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError) as error:
        print(f"warning: {path.name} in the cache cannot be read ({error}): tokenised anew", file=sys.stderr)
        return None


def _write(path: Path, encoded_split: EncodedSplit) -> None:
    values = {"ids": encoded_split.input_ids.values, "ends": encoded_split.input_ids.ends}
    if encoded_split.token_type_ids is not None:
        values["types"] = encoded_split.token_type_ids.values
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(values))
    except OSError as error:
        reason = error.strerror or error
        print(f"warning: {path.parent} cannot be written ({reason}): the next cell tokenises again", file=sys.stderr)
