"""The names of the timed cases and sizes, which the command line checks before torch is imported."""

from __future__ import annotations

BASELINE = "frozen backbone"
OWN = ("lora r=1", "lora r=8", "adalora r=8", "sora r=8", "lora2 k=1", "lora2 k=8")
TORCH_MASKS = ("lora r=8 torch masks", "lora2 k=1 torch masks")
PEFT = ("peft lora r=1", "peft lora r=8", "peft adalora r=8")
SIZE_NAMES = ("minilm", "roberta_base", "roberta_large", "deberta_v3_base")


def names() -> list[str]:
    """Every case, the frozen backbone first."""
    return [BASELINE, *OWN, *(f"{name} plain" for name in OWN), *TORCH_MASKS, "lora2 k=1 dense", *PEFT]
