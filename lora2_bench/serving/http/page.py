"""The page at `/`: one file, with a policy that lets nothing in but its own style and script."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from lora2_bench.serving.http.responses import Headers


class Page:
    """The page.

    Attributes:
        body: its HTML.
        headers: its Content-Security-Policy and the like.
    """

    def __init__(self) -> None:
        folder = files("lora2_bench.serving.http")
        html, style, script = (
            folder.joinpath(f"page.{end}").read_text(encoding="utf-8") for end in ("html", "css", "js")
        )
        self.body = html.replace("/* page.css */", style).replace("/* page.js */", script).encode()
        policy = (
            f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.headers: Headers = (
            (b"content-security-policy", policy.encode()),
            (b"x-frame-options", b"DENY"),
            (b"cross-origin-opener-policy", b"same-origin"),
        )


def _source(text: str) -> str:
    """How a policy names an inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
