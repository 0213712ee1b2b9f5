"""Which code made a result: a digest of the sources that can change it, blind to comments, docstrings, blank lines."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

from lora2_bench.files.digests import Stamped, stamped

_PACKAGE = Path(__file__).resolve().parents[1]
# Beside the method itself: what loads, feeds and trains it.
_ROOMS = ("backbones", "tasks", "training")
_MODULES = ("runner/rows.py", "runner/setup.py")


def sources_digest(implementation: str) -> str | None:
    """16 hex digits of SHA-256 over the code that can change the result of a method, or None where it is not found.

    These are the method's module with the modules of its own package that it imports, and the rooms that load, feed and
    train it. Nothing is imported and nothing is run: `implementation` (a class's dotted name) is only looked up.
    """
    module = implementation.rpartition(".")[0]
    if module == "peft":  # PEFT's own code stands in the record by its version
        module = "lora2_bench.methods.peft_tuner"
    if (own := _method_files(module)) is None:
        return None
    rooms = [path for room in _ROOMS for path in sorted((_PACKAGE / room).rglob("*.py"))]
    files = {path.as_posix(): path for path in [*own, *rooms, *(_PACKAGE / name for name in _MODULES)]}
    return _digest(stamped(files[name] for name in sorted(files)))


def is_found(implementation: str) -> bool:
    """Whether the module of a class's dotted name is there, as far as can be told without importing anything."""
    module = implementation.rpartition(".")[0]
    top = module.partition(".")[0]
    try:
        if not all(part.isidentifier() for part in module.split(".")) or importlib.util.find_spec(top) is None:
            return False
    except ValueError:  # a module without a spec, as __main__ may be
        return True
    return top != _PACKAGE.name or _file_of(module) is not None


def _method_files(module: str) -> list[Path] | None:
    """The file of a module, and those of the modules beside or below its package that it imports, all the way down."""
    found: dict[str, Path] = {}
    package = module.rpartition(".")[0] or module
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if (path := _file_of(name)) is None:
            if name == module:
                return None
            continue
        found[name] = path
        (file,) = stamped([path])
        waiting += [other for other in _imports(file) if other == package or other.startswith(f"{package}.")]
    return list(found.values())


def _file_of(module: str) -> Path | None:
    """A module's file, found below its top package without importing anything."""
    top, *names = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module without a spec, as __main__ may be
        return None
    if spec is None:
        return None
    if not names:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *names)
        for found in (path.with_suffix(".py"), path / "__init__.py"):
            if found.is_file():
                return found
    return None


@lru_cache(maxsize=256)
def _imports(file: tuple[Path, int, int]) -> tuple[str, ...]:
    """Dotted names that a file imports; of `from a import b` both `a` and `a.b`, since b may be a module."""
    names: list[str] = []
    for node in _nodes(ast.parse(file[0].read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


@lru_cache(maxsize=32)
def _digest(files: Stamped) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file[0].name}\0{_code_of_file(file)}\0".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=256)
def _code_of_file(file: tuple[Path, int, int]) -> str:
    return code_of(file[0].read_text(encoding="utf-8"))


def code_of(text: str) -> str:
    """Python source without comments, docstrings, blank lines and trailing space: what is left decides what it does.

    A comment between the parts of one string literal stays.
    """
    original = text.splitlines()
    lines: list[str] = list(original)
    nodes = _nodes(ast.parse(text))
    bodies = [body for node in nodes if isinstance(body := getattr(node, "body", None), list)]
    docstrings = [(part.value, len(body) == 1) for body in bodies for part in body if _is_text(part)]
    strings = [node for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]
    inside: dict[int, list[tuple[int, int]]] = {}  # line -> where strings stand in it
    within: set[int] = set()  # lines whose end lies in a string
    for (row, column), (end_row, end_column) in (_span(node, original) for node in strings):
        within.update(range(row, end_row))
        for line in range(row, end_row + 1):
            begin, end = column if line == row else 0, end_column if line == end_row else len(original[line - 1])
            inside.setdefault(line, []).append((begin, end))
    for number, line_text in enumerate(original, start=1):
        signs = [at for at, character in enumerate(line_text) if character == "#"]
        comment = next((at for at in signs if not any(a <= at < b for a, b in inside.get(number, ()))), None)
        lines[number - 1] = line_text[:comment]
    for node, alone in docstrings:
        (row, column), (end_row, end_column) = _span(node, original)
        rest = lines[end_row - 1][end_column:]
        lines[row - 1] = lines[row - 1][:column] + ("..." if alone else "") + (rest if row == end_row else "")
        lines[row:end_row] = [""] * (end_row - row)
        within.difference_update(range(row, end_row))
    kept = (line if number in within else line.rstrip() for number, line in enumerate(lines, start=1))
    return "\n".join(line for number, line in enumerate(kept, start=1) if line or number in within)


def _nodes(tree: ast.AST) -> list[ast.AST]:
    """A tree's nodes, as `ast.walk` has them, in half its time: every command that looks a cell up pays for it."""
    found = [tree]
    for node in found:
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                found.append(value)
            elif isinstance(value, list):
                found += [one for one in value if isinstance(one, ast.AST)]
    return found


def _is_text(statement: ast.stmt) -> TypeGuard[ast.Expr]:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _span(node: ast.expr, lines: list[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where an expression begins and ends: (line from 1, character from 0), the end excluded."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    begin = len(lines[node.lineno - 1].encode()[: node.col_offset].decode())  # Python counts bytes
    end = len(lines[node.end_lineno - 1].encode()[: node.end_col_offset].decode())
    return (node.lineno, begin), (node.end_lineno, end)
