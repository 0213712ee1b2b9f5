"""Where the configs and the cache are."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
# An installed wheel carries conf/ inside the package; a checkout has it at the top level.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def cache_folder() -> Path:
    """LORA2_BENCH_CACHE, or `lora2-bench` in the user's cache folder. It can be deleted at any time."""
    if own := os.environ.get("LORA2_BENCH_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lora2-bench"
