"""A table of texts, and its two forms: Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2_bench.files.writing import write_text

BEST, SECOND = 1, 2


@dataclass(frozen=True)
class Text:
    """One place of a sheet: `head` is what a rank makes bold (1) or underlined (2); `tail` follows it."""

    head: str = ""
    tail: str = ""
    rank: int = 0


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        title: one line.
        header: names of the columns.
        left: how many columns, from the first, stand left; the others stand right.
        lines: one sequence of texts per line, as long as the header.
        rules: indices of lines before which LaTeX draws a rule.
        notes: lines below it.
        commands: what fills its gaps.
    """

    title: str
    header: Sequence[str]
    left: int
    lines: Sequence[Sequence[Text]]
    rules: frozenset[int] = frozenset()
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()


def markdown(sheet: Sheet) -> str:
    """The sheet under a heading of the second level."""
    rows = [" | ".join(_markdown(text) for text in line) for line in sheet.lines]
    aligned = " | ".join(["---"] * sheet.left + ["---:"] * (len(sheet.header) - sheet.left))
    out = [f"## {sheet.title}", "", f"| {' | '.join(sheet.header)} |", f"| {aligned} |"]
    out += [f"| {row} |" for row in rows]
    for note in sheet.notes:
        out += ["", note]
    if sheet.commands:
        out += ["", "To fill it:", "", *(f"    {command}" for command in sheet.commands)]
    return "\n".join(out) + "\n"


def _markdown(text: Text) -> str:
    head = {BEST: f"**{text.head}**", SECOND: f"<u>{text.head}</u>"}.get(text.rank, text.head)
    return (head + text.tail).replace("|", "\\|")


# Signs of our own texts; LaTeX's own specials come first, so that what replaces them is not escaped again.
_SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {sign: "\\" + sign for sign in "&%$#_"}
_SPECIAL |= {"<": r"$<$", ">": r"$>$", "|": r"$|$", "±": r"$\pm$", "−": r"$-$", "–": "--", "×": r"$\times$"}
_SPECIAL |= {
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "≠": r"$\neq$",
    "§": r"\S{}",
    "¶": r"\P{}",
    "²": r"\textsuperscript{2}",
}
_SPECIAL |= {"·": r"$\cdot$", "≥": r"$\geq$", "≤": r"$\leq$"}
_TO_ESCAPE = re.compile("|".join(re.escape(sign) for sign in _SPECIAL))


def escape(text: str) -> str:
    """Text for LaTeX: its specials escaped, our signs as commands, and whatever else is not ASCII as `?`."""
    escaped = _TO_ESCAPE.sub(lambda sign: _SPECIAL[sign[0]], text.replace("`", "'"))
    return escaped.encode("ascii", "replace").decode()


PREAMBLE = "% \\usepackage{booktabs,graphicx}\n"
"""What a file of LaTeX tables says first: the packages that they need."""

_FIT = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"


def latex(sheet: Sheet) -> str:
    """The sheet as a `table*`, shrunk to the width of the text where it is wider; it needs booktabs and graphicx."""
    columns = "l" * sheet.left + "r" * (len(sheet.header) - sheet.left)
    out = [r"\begin{table*}", r"\centering", r"\scriptsize", r"\setlength{\tabcolsep}{3pt}"]
    out += [
        rf"\caption{{{escape(' '.join([sheet.title + '.', *sheet.notes]))}}}",
        rf"{_FIT}\begin{{tabular}}{{{columns}}}",
    ]
    out += [r"\toprule", " & ".join(escape(name) for name in sheet.header) + r" \\", r"\midrule"]
    for index, line in enumerate(sheet.lines):
        if index in sheet.rules:
            out.append(r"\midrule")
        out.append(" & ".join(_latex(text) for text in line) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}}", r"\end{table*}"]
    out += [f"% to fill it: {command}" for command in sheet.commands]
    return "\n".join(out) + "\n"


def _latex(text: Text) -> str:
    head = escape(text.head)
    head = {BEST: rf"\textbf{{{head}}}", SECOND: rf"\underline{{{head}}}"}.get(text.rank, head)
    # A bracket that opens a line would pass for the argument of the line end before it.
    return ("{}" if head.startswith("[") else "") + head + escape(text.tail)


def write_sheets(
    place: Path,
    name: str,
    sheets: Sequence[Sheet],
    columns: Sequence[str],
    lines: Sequence[Sequence[Any]],
    *,
    with_latex: bool = True,
) -> list[Path]:
    """Write sheets as `NAME.md` and `.tex`, and `lines` as `.csv`; without sheets, remove what stands there."""
    paths = [place / f"{name}.{kind}" for kind in ("md", *(("tex",) if with_latex else ()), "csv")]
    if not sheets:
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    texts = {
        "md": "\n".join(markdown(sheet) for sheet in sheets),
        "tex": PREAMBLE + "\n".join(latex(sheet) for sheet in sheets),
        "csv": text.getvalue(),
    }
    for path in paths:
        write_text(path, texts[path.suffix[1:]])
    return paths
