"""What never enters a record: home folders, absolute paths, tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_PINS = ("sha256", "revision")  # settings that hold a hash, which would pass for a token


def scrub(text: str) -> str:
    """`text` without home or other absolute paths, and without anything that looks like a token."""
    home = str(Path.home())
    if len(home) > 1:  # a home itself, with nothing below it, would keep its owner's name
        text = re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
    text = re.sub(r"(?:(?<![\w.:/])|(?<=:)(?!//)|(?<=file://))(?:~|/)[^\s,;'\"]*/", ".../", text)
    text = re.sub(r"(?<=://)[^/\s@]+@", "***@", text)
    return re.sub(r"\b(?:hf_[A-Za-z0-9]{8,}|wandb_v\d_\w{8,}|[0-9a-f]{40,}(?![0-9a-f]))", "***", text)


def scrubbed(value: Any) -> Any:
    """`value`, plain data, with every string in it scrubbed, but for the hashes that pin a backbone."""
    if isinstance(value, dict):
        return {name: item if name in _PINS else scrubbed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(item) for item in value]
    return scrub(value) if isinstance(value, str) else value
