"""The digest of the code behind a result: what changes a number changes it, what is said about the code does not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lora2_bench.experiment.sources import code_of, sources_digest

METHOD = '''"""A method."""

from mine.shared import half


class Mine:
    """Doc."""

    def scale(self, x: float) -> float:
        # why
        return half(x)  # "#"
'''
SHARED = """def half(x: float) -> float:
    return x / 2
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a user's own, which ends the test if it is ever run."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('this package was run')\n")
    (folder / "method.py").write_text(METHOD)
    (folder / "shared.py").write_text(SHARED)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_talk_about_the_code_leaves_the_digest(package: Path) -> None:
    before = sources_digest("mine.method.Mine")
    text = METHOD.replace("# why", "# because it is so").replace('"""Doc."""', '"""Another\n\n    text."""')
    (package / "method.py").write_text(text.replace("    def", "\n\n    def"))
    assert before is not None and sources_digest("mine.method.Mine") == before


@pytest.mark.parametrize(
    ("file", "old", "new"), [("method.py", "half(x)", "half(x) + 1"), ("shared.py", "x / 2", "x / 2.01")]
)
def test_a_changed_line_changes_it_in_the_method_and_in_what_it_imports(
    file: str, old: str, new: str, package: Path
) -> None:
    before = sources_digest("mine.method.Mine")
    text = (package / file).read_text()
    (package / file).write_text(text.replace(old, new))
    assert sources_digest("mine.method.Mine") != before


def test_methods_differ_and_what_is_not_found_has_none() -> None:
    names = ("lora.LoRA", "lora2.LoRA2", "full.Full")
    found = {sources_digest(f"lora2_bench.methods.{name}") for name in names}
    assert len(found) == 3 and None not in found
    assert sources_digest("lora2_bench.methods.nothing.X") is None
    assert sources_digest("no_such_package.X") is None and sources_digest("nodots") is None


@pytest.mark.slow
def test_what_is_left_of_a_module_is_its_code() -> None:
    for path in sorted((Path(__file__).parents[2] / "lora2_bench").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert plain(code_of(text)) == plain(text), path.name
    kept = 'a = """one # two\n\n  three   \n"""  # four\nb = f"{a}#"'
    assert code_of(kept) == kept.replace("  # four", "")


def plain(text: str) -> str:
    """The syntax tree of a module without the texts that are statements."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            left = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            node.body = left or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)
