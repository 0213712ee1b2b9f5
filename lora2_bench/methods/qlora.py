"""QLoRA (Dettmers et al., arXiv 2305.14314): LoRA beside a backbone that is kept in four bits."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import require, require_choice
from lora2_bench.methods.lora import LoRALinear, LoRAOptions
from lora2_bench.methods.lowrank.quantised import QuantisedLinear
from lora2_bench.methods.lowrank.quantising import QuantisingMethod

BLOCK_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
_SCALES_PER_BLOCK = 256  # of the second quantisation, as published


@dataclass(frozen=True)
class QLoRAOptions(LoRAOptions):
    """LoRA's options, and how the frozen maps are quantised.

    Attributes:
        quant_type: `nf4`, the 16 values of a normal distribution's quantiles, or `fp4`, those of a four-bit float.
        block_size: weights that share a scale.
        double_quant: whether the scales are quantised too, to eight bits.
    """

    quant_type: str
    block_size: int
    double_quant: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("method.quant_type", self.quant_type, ("nf4", "fp4"))
        known = type(self.block_size) is int and self.block_size in BLOCK_SIZES
        require(known, "method.block_size", self.block_size, f"one of {', '.join(map(str, BLOCK_SIZES))}")
        require(type(self.double_quant) is bool, "method.double_quant", self.double_quant, "true or false")


class FourBitLinear(QuantisedLinear):
    """h = x Ŵᵀ + b with Ŵ = scale ⊙ levels[codes], a scale for each block of weights in the order of rows.

    The functions of bitsandbytes are called on buffers of this module: its own layer repacks its weight for good when
    it is evaluated on a CPU with AVX512-BF16, and has no gradient from then on.

    Attributes:
        codes: two codes a byte; levels: the 16 values.
        scales: one a block, in float32; with double quantisation codes of a byte each, of which 256 share a value of
            `scale_scales`, take their value from `scale_levels`, and lie around `scale_mean`.
    """

    codes: Tensor
    levels: Tensor
    scales: Tensor

    def __init__(self, base: nn.Linear, options: QLoRAOptions) -> None:
        super().__init__(base)
        self.quant_type, self.block_size, self.double_quant = (
            options.quant_type,
            options.block_size,
            options.double_quant,
        )
        codes, state = _functions().quantize_4bit(
            base.weight.detach().float().contiguous(),
            blocksize=self.block_size,
            compress_statistics=self.double_quant,
            quant_type=self.quant_type,
        )
        self.register_buffer("codes", codes)
        self.register_buffer("levels", state.code)
        self.register_buffer("scales", state.absmax)
        if self.double_quant:
            self.register_buffer("scale_levels", state.state2.code)
            self.register_buffer("scale_scales", state.state2.absmax)
            self.register_buffer("scale_mean", state.offset)

    def dequantise(self) -> Tensor:
        """Ŵ (d_out×d_in)."""
        functions = _functions()
        second: dict[str, Any] = {}
        if self.double_quant:
            state = functions.QuantState(
                absmax=self.scale_scales, code=self.scale_levels, blocksize=_SCALES_PER_BLOCK, dtype=torch.float32
            )
            second = {"offset": self.scale_mean, "state2": state}
        state = functions.QuantState(
            absmax=self.scales,
            shape=torch.Size((self.out_features, self.in_features)),
            code=self.levels,
            blocksize=self.block_size,
            quant_type=self.quant_type,
            dtype=torch.float32,
            **second,
        )
        weight: Tensor = functions.dequantize_4bit(self.codes, state)
        return weight.to(self.dtype)


def _functions() -> Any:
    import bitsandbytes.functional  # seconds, and an extra that other methods do without

    return bitsandbytes.functional


class QLoRA(QuantisingMethod[LoRALinear]):
    """LoRA on every target map, and all linear maps of the encoder's layers in four bits."""

    Options = QLoRAOptions
    merges = False

    @classmethod
    def check(cls, options: Any, total_steps: int) -> None:
        """Raise UserError where bitsandbytes is not installed."""
        super().check(options, total_steps)
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError("method=qlora needs bitsandbytes, which is not installed: pip install 'lora2-bench[quant]'")

    def quantise(self, base: nn.Linear) -> FourBitLinear:
        """The map in four bits."""
        return FourBitLinear(base, self.options)

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> LoRALinear:
        """A LoRA layer over the map in four bits."""
        return LoRALinear(self.quantise(base), self.options, generator)

    def merge(self) -> None:
        """Refused: a merged weight is on none of the four-bit levels."""
        raise UserError(
            "QLoRA cannot be merged into four-bit weights without rounding the adapter away: load it with PEFT on the "
            "quantised backbone, or train method=qalora, which can"
        )
