"""A finished cell as a folder of its own, which plain transformers and PEFT load without a network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.base import Method, at_rank, load_method
from lora2_bench.methods.lowrank.quantised import QuantisedLinear
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.runner.export import export_adapter, write_adapter
from lora2_bench.runner.model_folder import save_tokenizer, write_model
from lora2_bench.runner.opened import require_weights
from lora2_bench.runner.setup import backbone_of
from lora2_bench.runner.stored import stored_method
from lora2_bench.using.card import model_card, write_card

BASE = "base"
"""The folder of the base model in that of an adapter."""


def write_folder(plan: Plan, record: Record, out: Path, merged: bool) -> str:
    """Write the folder `out`, whole or not at all; returns the library that loads it, peft or transformers.

    An adapter of PEFT's stands beside its base (in `base/`, named by its path); everything else, and an adapter that is
    `merged`, is one model. The tokenizer cuts at the cell's own length. It is the cell at the plan's `export.rank`.

    Raises UserError for a method that neither library computes, for a folder that is not empty or cannot be written,
    and for weights that are not those that the cell has kept.
    """
    store, spec, rank = Store(plan.run_options.results), plan.cell.spec, plan.run_options.export.rank
    require_weights(store, record)
    check_out(out)
    kind = load_method(plan.implementation)
    if merged and not kind.merges and kind.exports in ("lora", "peft"):
        kind(kind.parse(plan.cell.method), total_steps=1).merge()  # which refuses, with its reason
    max_length = plan.cell.train.max_length
    method = stored_method(plan, store, record, f"CELL={record.id}")
    base = _untouched(plan, method)
    prompt = None if merged else method.prompt_of_peft(base)
    is_adapter = method.exports in ("lora", "peft") and not merged
    library = "peft" if is_adapter or prompt is not None else "transformers"
    try:
        card = model_card(plan.cell, record, store, library, rank)
    except (OSError, ValueError) as error:
        raise UserError(f"cell {record.id}: its predictions cannot be read ({error}): copy its folder anew") from None
    if library == "peft":

        def write(folder: Path) -> None:
            name = str(out.absolute() / BASE)
            if prompt is None:
                export_adapter(folder, method, name)
            else:
                _write_prompt(folder, base, *prompt, name)
            write_model(folder / BASE, base, spec, max_length)
            save_tokenizer(folder, base, max_length)
    else:
        with at_rank(method, rank):
            _make_plain(method, record, merged)

        def write(folder: Path) -> None:
            write_model(folder, method.backbone, spec, max_length)

    with at_rank(method, rank):
        _put_in_place(out, write, card)
    return library


def _untouched(plan: Plan, method: Method) -> Backbone:
    """The backbone that the method's adapter is loaded onto, with the trained head."""
    base = backbone_of(plan)
    heads = {name: parameter.detach() for name, parameter in method.backbone.head_parameters().items()}
    for name, tensor in {**method.replaced_weights(), **heads}.items():
        base.model.get_parameter(name).data = tensor.cpu().clone()  # not in place: cells share what files hold
    return base


def _write_prompt(folder: Path, base: Backbone, config: Any, tensors: dict[str, Tensor], name: str) -> None:
    """Write a prompt of PEFT's, with the classifier, of which PEFT has its own copy beside a prompt."""
    config.base_model_name_or_path = name
    heads = base.head_parameters().items()
    classifier = {f"base_model.{name}": part.detach() for name, part in heads if name.startswith("classifier.")}
    write_adapter(folder, config, tensors | classifier)


def _make_plain(method: Method, record: Record, merged: bool) -> None:
    """Make the method's model one of transformers' own. Raises UserError where something of the method's stays."""
    if type(method).merges:
        method.merge()
    model = method.backbone.model
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantisedLinear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _dequantised(module))
    if not type(method).merges and not all(method.backbone.owns(tensor) for tensor in method.saved().values()):
        if merged:
            method.merge()  # which refuses, with its reason
        raise UserError(
            f"{record.label} adds to the model what neither transformers nor PEFT computes in the same way: "
            f"use lora2-bench predict {record.id}"
        )


@torch.no_grad()
def _dequantised(module: QuantisedLinear) -> nn.Linear:
    linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    linear.weight.copy_(module.dequantise())
    if module.bias is not None:
        linear.bias.copy_(module.bias)
    return linear


def check_out(out: Path) -> None:
    """Raise UserError where a folder cannot be put at `out`: there is a file, or a folder that is not empty."""
    if (parent := next((one for one in out.absolute().parents if one.exists()), None)) and not parent.is_dir():
        raise UserError(f"--out {out} lies below {parent}, which is a file: give another folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out} is there already: give a new folder, or an empty one")


def _put_in_place(out: Path, write: Callable[[Path], None], card: str) -> None:
    place: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        new = place / "new"
        write(new)
        write_card(new, card)
        new.rename(out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}): give another folder") from None
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
