"""Drawn SVG files -> SVG elements that stand side by side in one page."""

from __future__ import annotations

import html
import re

_FONT = re.compile(r"; ?font-family: [^;\"]*|font-family: [^;\"]*; ?")
_THIRD_DIGIT_AND_ON = re.compile(r"(?<=\.\d\d)\d+")


def inline(svg: str, prefix: str, label: str) -> str:
    """The `<svg>` element of a drawn file, small, with `prefix` before each of its ids.

    Declarations, metadata and its style sheet (which would apply to the whole page) are dropped, fonts are left to the
    page, and coordinates keep two digits; it is as wide as drawn, in CSS pixels. A screen reader says `label` of it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>|<title>.*?</title>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'((?:href="|url\()#)', lambda found: found[1] + prefix, body)
    body = _FONT.sub("", body)
    around_texts = re.split(r"(>[^<>]+</text>)", body)
    around_texts[::2] = [_THIRD_DIGIT_AND_ON.sub("", part) for part in around_texts[::2]]
    body = "".join(around_texts)
    body = re.sub(r' transform="rotate\(-0[^"]*"', "", body)
    body = re.sub(r"<g>\s*</g>|<g/>", "", re.sub(r"\n\s*", "\n", body))
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    assert view is not None, "matplotlib writes a viewBox"
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {view[1]} {view[2]}" '
    head += f'width="{float(view[1]) * 4 / 3:.0f}" role="img" aria-label="{html.escape(label)}">'
    return head + body[body.index(">") + 1 :].strip()
