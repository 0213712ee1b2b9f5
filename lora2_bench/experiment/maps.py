"""The six linear maps of an encoder's layer: the paper's letters, and the modules' names in each architecture."""

from __future__ import annotations

from typing import Any

# The paper's letters, and the modules below `encoder.layer.N` (ModernBERT: `layers.N`) of each architecture.
MAPS = ("q", "k", "v", "o", "f1", "f2")
ALL_LINEAR = "all-linear"
_FEED_FORWARD = {"attention.output.dense": "o", "intermediate.dense": "f1", "output.dense": "f2"}
_BERT = {"attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v", **_FEED_FORWARD}
_DEBERTA = {f"{name}_proj" if ".self." in name else name: letter for name, letter in _BERT.items()}
_PARTS = {"attn.Wqkv.q": "q", "attn.Wqkv.k": "k", "attn.Wqkv.v": "v"}
_MODERN = {**_PARTS, "attn.Wo": "o", "mlp.Wi": "f1", "mlp.Wo": "f2"}
MAPS_BY_TYPE = {"bert": _BERT, "roberta": _BERT, "deberta-v2": _DEBERTA, "modernbert": _MODERN}
"""Model type -> module name -> letter; the parts of a fused map stand below it once it is taken apart."""
FUSED_BY_TYPE = {"modernbert": {"attn.Wqkv": ("q", "k", "v")}}
"""Model type -> name of a fused map -> the letters of its row blocks, of equal height."""
_SINGLE = [(name, (letter,)) for maps in MAPS_BY_TYPE.values() for name, letter in maps.items()]
_MODULES = [*_SINGLE, *(pair for maps in FUSED_BY_TYPE.values() for pair in maps.items())]

TARGETS = f"a list of some of {', '.join(MAPS)}, of the encoder's own module names (query), or {ALL_LINEAR}"
"""What `method.targets` may be, for errors."""


def in_letters(targets: Any) -> Any:
    """Targets as the paper's letters, in its order, wherever they name modules or say `all-linear`.

    A module's name means what it means to PEFT: every map whose name is it or ends in `.` and it, so that `dense` is
    o, f1 and f2. Letters alone, and what is no target at all, stay as they are.
    """
    if targets == ALL_LINEAR:
        return list(MAPS)
    if not isinstance(targets, list | tuple) or not all(isinstance(target, str) for target in targets):
        return targets
    found = {target: [target] if target in MAPS else _matching(target) for target in targets}
    if all(letters == [target] for target, letters in found.items()) or not all(found.values()):
        return targets
    named = {letter for letters in found.values() for letter in letters}
    return [letter for letter in MAPS if letter in named]


def _matching(target: str) -> list[str]:
    found = [letters for name, letters in _MODULES if name == target or name.endswith(f".{target}")]
    return [letter for letters in found for letter in letters]
