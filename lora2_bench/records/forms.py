"""Ranges of numbers and forms of strings, of which the schemas of JSON files are made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value that a number may have, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class Form:
    """What a string must look like: what it is called, a pattern of all of it, and the pattern in words."""

    name: str
    pattern: str
    allowed: str

    def matches(self, text: str) -> bool:
        """Whether the whole text has this form."""
        return re.fullmatch(self.pattern, text) is not None


INFINITY = float("inf")
Count = Annotated[int, Range(0, INFINITY)]
Seconds = Annotated[float, Range(0, INFINITY)]
Share = Annotated[float, Range(0, 1)]
Correlation = Annotated[float, Range(-1, 1)]
Sha256 = Annotated[str, Form("SHA-256", "[0-9a-f]{64}", "64 hexadecimal digits")]
Id = Annotated[str, Form("id", "[0-9a-f]{16}", "16 hexadecimal digits")]
PLAIN_NAME = Form(
    "plain name", r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", "at most 100 letters, digits, _, and after the first ., + and -"
)
Name = Annotated[str, PLAIN_NAME]
"""What becomes part of a path: a backbone's name, a method's, a task's."""
METRIC = Form("plain name", rf"(mean of )?{PLAIN_NAME.pattern}( and {PLAIN_NAME.pattern})*", PLAIN_NAME.allowed)
"""A metric, or `mean of accuracy and f1` as QQP's deciding number is called."""
Line = Annotated[str, Form("line of text", r"[^\x00-\x1f\x7f-\x9f]*", "text without control characters")]
"""What is printed as a part of one line."""
