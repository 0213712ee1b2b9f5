"""A fused linear map, as ModernBERT's Wqkv, taken apart into its row blocks and put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Factors = dict[str, tuple[Tensor, Tensor]]
"""Module name -> (lora_A (r×d_in), lora_B (d_out×r))."""


class RowBlocks(nn.Module):
    """h = [x W_1ᵀ, x W_2ᵀ, ...]: a linear map as one for each of its row blocks, each of which can be adapted.

    The blocks' weights are views of the fused one: nothing is copied.

    Attributes:
        rows: block's name -> where its rows stand in the fused map.
    """

    def __init__(self, fused: nn.Linear, names: Sequence[str]) -> None:
        super().__init__()
        height = fused.out_features // len(names)
        self.rows = {name: slice(number * height, (number + 1) * height) for number, name in enumerate(names)}
        for name, rows in self.rows.items():
            block = nn.Linear(fused.in_features, height, bias=fused.bias is not None, device="meta")
            for key, parameter in fused.named_parameters():
                view = nn.Parameter(parameter.detach()[rows], requires_grad=parameter.requires_grad)
                block.register_parameter(key, view)
            self.add_module(name, block)
        self.train(fused.training)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out), the blocks' outputs in their order."""
        return torch.cat([block(x) for block in self.children()], dim=-1)


@torch.no_grad()
def join_blocks(model: nn.Module) -> None:
    """Put every fused map back whose row blocks are plain linear maps, as the untouched backbone has it."""
    for name, module in list(model.named_modules()):
        if not isinstance(module, RowBlocks) or any(type(block) is not nn.Linear for block in module.children()):
            continue
        blocks = [module.get_submodule(block) for block in module.rows]
        fused = nn.Linear(1, 1, bias=False, device="meta")
        for key, _ in blocks[0].named_parameters():
            fused.register_parameter(key, nn.Parameter(torch.cat([block.get_parameter(key) for block in blocks])))
        fused.out_features, fused.in_features = fused.weight.shape
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, fused)


def _blocks_of(model: nn.Module, module: str) -> tuple[str, str] | None:
    """(name of the fused map, block) of a module that is a row block; None for others."""
    parent, _, leaf = module.rpartition(".")
    return (parent, leaf) if isinstance(model.get_submodule(parent), RowBlocks) else None


def is_block(model: nn.Module, module: str) -> bool:
    """Whether a module of the model is a row block of a fused map, and so no module of the untouched backbone."""
    return _blocks_of(model, module) is not None


def fused_factors(model: nn.Module, factors: Factors) -> Factors:
    """LoRA factors for the untouched backbone's modules: those of a map's row blocks as factors of that map.

    lora_A stacks the blocks' own, and lora_B has the blocks' own on its diagonal: the rank is the sum of theirs, and
    ΔW is the blocks' updates one below the other, exactly.
    """
    found: Factors = {}
    blocks: dict[str, Factors] = {}
    for name, pair in factors.items():
        if (place := _blocks_of(model, name)) is None:
            found[name] = pair
        else:
            blocks.setdefault(place[0], {})[place[1]] = pair
    for name, parts in blocks.items():
        fused = model.get_submodule(name)
        assert isinstance(fused, RowBlocks)
        lora_a = torch.cat([part for part, _ in parts.values()])
        lora_b = lora_a.new_zeros(max(rows.stop for rows in fused.rows.values()), len(lora_a))
        first = 0
        for block, (part_a, part_b) in parts.items():
            lora_b[fused.rows[block], first : first + len(part_a)] = part_b
            first += len(part_a)
        found[name] = lora_a, lora_b
    return found


def fused_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights (d_out×d_in) by module name, for the untouched backbone's modules: all blocks of a fused map as one."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        place = _blocks_of(model, name)
        key = name if place is None else place[0]
        found[key] = torch.cat([found[key], weight]) if key in found else weight
    return found
