"""Weights of files to the places of a network: all of the encoder, each tensor once, in its shape, and finite."""

from __future__ import annotations

import re

from torch import Tensor
from transformers import PreTrainedModel

from lora2_bench.backbones.backbone import LAYER, is_head
from lora2_bench.backbones.folder import shortened
from lora2_bench.backbones.reading import FLOATS
from lora2_bench.errors import UserError

# What published files hold besides the encoder: heads of the pretraining or of another task, poolers that RoBERTa's
# classifier does without, position numbers, and DeBERTa's embeddings that its training alone used.
_UNUSED = re.compile(
    r"^(cls|lm_head|lm_predictions|mask_predictions|qa_outputs)\."
    r"|(^|\.)pooler\.|embeddings\.position_ids$|embeddings\.(word|position)_embeddings\._weight$"
    r"|^deberta\.embeddings\.position_embeddings\.weight$"
)
# Of ModernBERT the pretraining's decoder too. Its weight is the embedding table, and some files have that under this
# name alone.
_DECODER = "decoder.weight"
_UNUSED_OF_MODERNBERT = re.compile(r"^decoder\.(weight|bias)$")


def check_layers(tensors: dict[str, Tensor], layers: int, where: str) -> None:
    """Raise UserError unless the tensors are of layers 0 to `layers` - 1, all of them and no other."""
    found = {int(match[1]) for name in tensors if (match := LAYER.search(name))}
    if not found:
        raise UserError(f"{where}: the weights hold no layer 0 of an encoder: give the weights of the whole encoder")
    if len(found) != layers or max(found) != layers - 1:
        absent = next((number for number in range(max(found)) if number not in found), None)
        has = f"{len(found)} ({'the last is' if absent is None else f'without {absent}, up to'} {max(found)})"
        raise UserError(f"{where}: config.json says {layers} layers, the weights have {has}: give files of one model")


def fitted(tensors: dict[str, Tensor], network: PreTrainedModel, where: str) -> dict[str, Tensor]:
    """The tensors under the network's own names; only the head's may be absent.

    Names may have the base model's prefix or lack it, and old files call a norm's weight and bias gamma and beta, as
    transformers allows. `network` may be on the meta device. Raises UserError for an encoder weight that is absent,
    there twice, of another shape or not floating, for a half head, and for tensors that belong to nothing.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    prefix = f"{network.base_model_prefix}."
    is_modern = network.config.model_type == "modernbert"
    tensors = _with_table(tensors, prefix) if is_modern else tensors
    found: dict[str, Tensor] = {}
    strange = []
    for name, tensor in tensors.items():
        place = _place(name, wanted, prefix)
        if place is None:
            unused = _UNUSED.search(name) or (is_modern and _UNUSED_OF_MODERNBERT.search(name))
            strange += [] if unused else [name]
            continue
        if place in found:
            raise UserError(f"{where}: the weights have {place} twice, with {prefix} and without: keep one of them")
        if tuple(tensor.shape) != wanted[place]:
            why = "this task's head" if is_head(place) else "config.json"
            raise UserError(
                f"{where}: {name} is {tuple(tensor.shape)}, {why} needs {wanted[place]}: give files that fit"
            )
        if tensor.dtype not in FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{where}: {name} is {kind}: give the weights as they were before, in float32")
        found[place] = tensor
    absent = [name for name in wanted if name not in found]
    if lacking := [name for name in absent if not is_head(name)]:
        raise UserError(f"{where}: the weights lack {shortened(lacking)}: give the weights of the whole encoder")
    if strange:
        raise UserError(f"{where}: {shortened(strange)} of the weights fits no place: give files of one model")
    tops = {name.rpartition(".")[0] for name in found if is_head(name)}
    if half := [name for name in absent if name.rpartition(".")[0] in tops]:
        raise UserError(f"{where}: the weights have a part of the head, without {half[0]}: give all of it, or none")
    return found


def _with_table(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """ModernBERT's tensors with the embedding table, where the decoder alone has it."""
    table = "embeddings.tok_embeddings.weight"
    if _DECODER not in tensors or table in tensors or prefix + table in tensors:
        return tensors
    return {**tensors, prefix + table: tensors[_DECODER]}


def _place(name: str, wanted: dict[str, tuple[int, ...]], prefix: str) -> str | None:
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    places = (name, prefix + name, name.removeprefix(prefix))
    return next((place for place in places if place in wanted), None)
