"""lora2-bench: reproduce the GLUE study of LoRA² (arXiv 2408.06854) and put its claims to the test.

`run`, `sweep`, `load`, `predictions`, `predict` and `compare` are for scripts and notebooks: see docs/API.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora2_bench.api import compare, load, predict, predictions, run
    from lora2_bench.errors import CellFailed, Interrupted, UserError
    from lora2_bench.records.record import Record
    from lora2_bench.sweep.calls import sweep
    from lora2_bench.using.prediction import Prediction

__version__ = "0.1.0"
__all__ = [
    "CellFailed",
    "Interrupted",
    "Prediction",
    "Record",
    "UserError",
    "__version__",
    "compare",
    "load",
    "predict",
    "predictions",
    "run",
    "sweep",
]

# What is imported when first asked for: `import lora2_bench` costs nothing.
_HOMES = {
    **dict.fromkeys(("compare", "load", "predict", "predictions", "run"), "lora2_bench.api"),
    **dict.fromkeys(("CellFailed", "Interrupted", "UserError"), "lora2_bench.errors"),
    "Prediction": "lora2_bench.using.prediction",
    "Record": "lora2_bench.records.record",
}


def __getattr__(name: str) -> Any:
    if name == "sweep":  # the room itself, which can be called
        return import_module("lora2_bench.sweep")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lora2_bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
