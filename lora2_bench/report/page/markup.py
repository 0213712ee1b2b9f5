"""Markdown and drawn figures as HTML that a template can take in."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

# Raw HTML is shown as text. Images are disabled because each would be a request.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
_ALIGNED = re.compile(r' style="text-align:(\w+)"')  # the page's policy forbids style attributes
_PLAIN_TAGS = re.compile(r"&lt;(u|sub|sup)&gt;([^<>]*?)&lt;/\1&gt;")


def box(label: str) -> Markup:
    """The opening tag of a box that scrolls horizontally; `label` is its name for screen readers."""
    return Markup('<div class="box" role="region" tabindex="0" aria-label="{}">').format(label)


def from_markdown(text: str, top: int) -> Markup:
    """Markdown (CommonMark and tables) as HTML; headings start at level `top` and skip no level.

    The tags u, sub and sup are kept; every other tag is shown as text.
    """
    parts: list[str] = []
    chunks = _chunks(_MARKDOWN.parse(text))
    shift = top - min((int(chunk[0].tag[1]) for chunk in chunks if chunk[0].type == "heading_open"), default=top)
    previous = top - 1
    for chunk in chunks:
        label = "table"
        if chunk[0].type == "heading_open":
            level = min(int(chunk[0].tag[1]) + shift, previous + 1, 6)
            chunk[0].tag = chunk[2].tag = f"h{level}"
            previous, label = level, chunk[1].content
        body = _PLAIN_TAGS.sub(r"<\1>\2</\1>", _MARKDOWN.renderer.render(chunk, _MARKDOWN.options, {}))
        # `<` in text is escaped by now, so each `<table>` comes from markdown-it.
        body = body.replace("<table>", f"{box(label)}<table>").replace("</table>", "</table></div>")
        parts.append(_ALIGNED.sub(lambda found: ' class="number"' if found[1] == "right" else "", body))
    return Markup("".join(parts))


def _chunks(tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens, split before each heading."""
    chunks: list[list[Token]] = []
    for token in tokens:
        if token.type == "heading_open" or not chunks:
            chunks.append([])
        chunks[-1].append(token)
    return chunks


_FONT = re.compile(r"; ?font-family: [^;\"]*|font-family: [^;\"]*; ?")


_THIRD_DIGIT_AND_ON = re.compile(r"(?<=\.\d\d)\d+")


_STYLED = re.compile(r'<[^<>]* style="([^"]*)"[^<>]*>')


def _as_attributes(found: re.Match[str]) -> str:
    """A tag with its style as presentation attributes, of which style attributes win: the policy forbids these."""
    tag = found[0].replace(f' style="{found[1]}"', "", 1)
    for name, value in (part.split(":", 1) for part in found[1].split(";") if ":" in part):
        tag = re.sub(rf' {name.strip()}="[^"]*"', "", tag)
        end = "/>" if tag.endswith("/>") else ">"
        tag = f'{tag.removesuffix(end).rstrip()} {name.strip()}="{value.strip()}"{end}'
    return tag


def inline(svg: str, prefix: str, label: str) -> Markup:
    """The `<svg>` element of an SVG file, made smaller, with `prefix` before each of its ids.

    Declarations, metadata and its style sheet (which would apply to the whole page) are dropped, fonts are left to the
    page, and coordinates keep two decimals; its width is that of the file, in CSS pixels. `label` is its
    name for screen readers.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>|<title>.*?</title>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'((?:href="|url\()#)', lambda found: found[1] + prefix, body)
    body = _FONT.sub("", body)
    body = _STYLED.sub(_as_attributes, body)
    around_texts = re.split(r"(>[^<>]+</text>)", body)
    around_texts[::2] = [_THIRD_DIGIT_AND_ON.sub("", part) for part in around_texts[::2]]
    body = "".join(around_texts)
    body = re.sub(r' transform="rotate\(-0[^"]*"', "", body)
    body = re.sub(r"<g>\s*</g>|<g/>", "", re.sub(r"\n\s*", "\n", body))
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    assert view is not None, "matplotlib writes a viewBox"
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {view[1]} {view[2]}" '
    head += f'width="{float(view[1]) * 4 / 3:.0f}" role="img" aria-label="{html.escape(label)}">'
    return Markup(head + body[body.index(">") + 1 :].strip())
