"""The tokenizer of a backbone's folder, loaded without code and checked against the encoder."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from lora2_bench.backbones.folder import check_vocabulary
from lora2_bench.errors import UserError, first_line
from lora2_bench.files.digests import hash_files, stamped

_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)


def load_tokenizer(root: Path, config: PretrainedConfig, where: str) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, whose limit is the encoder's where that has one.

    Raises UserError where there is none, where it cannot be read, and where it gives ids that the encoder lacks.
    """
    check_vocabulary(root, where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(root, trust_remote_code=False)
    except Exception as error:  # each tokenizer class fails in its own way on files that are not its own
        raise UserError(
            f"{where}: the tokenizer's files cannot be read ({type(error).__name__}: {first_line(error)[:200]}): save "
            "it again with save_pretrained"
        ) from None
    if (highest := max(tokenizer.get_vocab().values(), default=-1)) >= config.vocab_size:
        raise UserError(
            f"{where}: the tokenizer's ids go up to {highest}, and config.json says vocab_size {config.vocab_size}: "
            "give the tokenizer of this encoder"
        )
    has_types = "token_type_ids" in tokenizer.model_input_names
    if config.model_type == "bert" and has_types and config.type_vocab_size < 2:
        raise UserError(
            f"{where}: the tokenizer gives two token types, and config.json says type_vocab_size "
            f"{config.type_vocab_size}: give the tokenizer of this encoder"
        )
    # RoBERTa counts positions from the padding id on.
    if config.model_type == "roberta" and tokenizer.pad_token_id != config.pad_token_id:
        raise UserError(
            f"{where}: the tokenizer pads with {tokenizer.pad_token_id}, and config.json says pad_token_id "
            f"{config.pad_token_id}: give the tokenizer of this encoder"
        )
    if (positions := _positions(config)) is not None:  # a tokenizer need not know its model's limit
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def hash_tokenizer(root: Path) -> str:
    """SHA-256 over the tokenizer's files in a folder."""
    return hash_files(stamped([file for pattern in _FILES for file in sorted(root.glob(pattern))]))


def _positions(config: PretrainedConfig) -> int | None:
    """The longest input in tokens; None for DeBERTa, whose positions are relative.

    ModernBERT's turn with the position and have no table: its limit is the length that it was trained for.
    """
    if config.model_type == "roberta":  # positions are counted from the padding id on
        return int(config.max_position_embeddings) - int(config.pad_token_id) - 1
    return int(config.max_position_embeddings) if config.model_type in ("bert", "modernbert") else None
