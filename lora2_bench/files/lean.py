"""Imports of transformers without what it reads and loads for models that no cell uses. Nothing that it offers is lost.

It opens the files of all its models, some thousands, twice, to learn the names that they define; and for the losses of
object detection it loads scipy's optimisers.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from lora2_bench.files.paths import cache_folder
from lora2_bench.files.writing import write_text

_SCANNER = "transformers.utils.import_utils"
_SCAN = "create_import_structure_from_path"
_OPTIMISERS, _ASSIGNMENT = "scipy.optimize", "linear_sum_assignment"

Structure = dict[Any, Any]
"""What a scan finds: required backends -> module -> names, and folder -> the same of it."""


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within it transformers is imported with the names that it had at its last import, without scipy's optimisers.

    The names are kept in the cache folder under the size and time of change of every file that they come from, so that
    no other installation's are ever taken. What asks for the optimisers gets them when it uses them.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.forget()


class _Finder(MetaPathFinder):
    """Finds the two modules that are imported otherwise; each once."""

    def __init__(self) -> None:
        self.stand_in: ModuleType | None = None

    def find_spec(self, name: str, path: Sequence[str] | None = None, _: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of one of the two; None leaves a module to the other finders."""
        if name == _SCANNER and (spec := PathFinder.find_spec(name, path)) and spec.loader:
            spec.loader = _ScannerLoader(spec.loader)
            return spec
        if name == _OPTIMISERS and self.stand_in is None:
            self.stand_in = _Optimisers(name)
            return ModuleSpec(name, _Ready(self.stand_in))
        return None

    def forget(self) -> None:
        """Take the stand-in away: whoever imports scipy's optimisers from now on gets themselves."""
        if self.stand_in is not None and sys.modules.get(_OPTIMISERS) is self.stand_in:
            _remove(self.stand_in)


class _Ready(Loader):
    """Gives a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def create_module(self, _: ModuleSpec) -> ModuleType:
        """The module."""
        return self.module

    def exec_module(self, _: ModuleType) -> None:
        """Nothing is left to do."""


class _Optimisers(ModuleType):
    """Stands in for `scipy.optimize`: its assignment solver as a function that loads it, all else by loading it now."""

    def __getattr__(self, name: str) -> Any:
        if name == _ASSIGNMENT:
            return _linear_sum_assignment
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_OPTIMISERS) is self:
            _remove(self)
        return getattr(importlib.import_module(_OPTIMISERS), name)


def _remove(module: ModuleType) -> None:
    del sys.modules[_OPTIMISERS]
    package = sys.modules["scipy"]
    if vars(package).get("optimize") is module:
        del package.optimize


def _linear_sum_assignment(*arguments: Any, **options: Any) -> Any:
    """`scipy.optimize.linear_sum_assignment`."""
    return getattr(importlib.import_module(_OPTIMISERS), _ASSIGNMENT)(*arguments, **options)


class _ScannerLoader(Loader):
    """Loads the module that scans transformers' folders, and has its scan of the models remembered."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the module's own loader; then the scan is wrapped, where this version of transformers has it."""
        self.loader.exec_module(module)
        if scan := getattr(module, _SCAN, None):
            setattr(module, _SCAN, _remembered(scan, Path(str(module.__file__))))

    def __getattr__(self, name: str) -> Any:  # what tracebacks and inspection ask of a source file's loader
        return getattr(self.loader, name)


def _remembered(scan: Callable[[Any], Structure], file: Path) -> Callable[[Any], Structure]:
    """The scan, which answers for the folder of all models from the cache; `file` is the one that defines it."""
    models, known = file.parents[1] / "models", dict[str, Structure]()

    @wraps(scan)
    def remembered(path: Any) -> Structure:
        if Path(path) not in (models, models / "__init__.py"):
            return scan(path)
        if models.name not in known:
            known[models.name] = _from_cache(scan, models, file)
        return known[models.name]

    return remembered


def _from_cache(scan: Callable[[Any], Structure], models: Path, file: Path) -> Structure:
    folder = cache_folder()
    if folder is None:
        return scan(models)
    path = folder / "imports" / f"{_stamp(models, file)}.json"
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or a broken one: made anew
        return _decoded(json.loads(path.read_text(encoding="utf-8")))
    found = scan(models)
    with suppress(OSError):  # a cache that cannot be written costs the time of the next import
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(_encoded(found)))
    return found


def _stamp(models: Path, file: Path) -> str:
    """SHA-256 over path, size and time of change of every file that the scan's answer depends on."""
    about = file.stat()
    digest = hashlib.sha256(f"1 {models} {about.st_size} {about.st_mtime_ns}".encode())
    waiting = [str(models)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    waiting += [] if entry.name == "__pycache__" else [entry.path]
                    continue
                stat = entry.stat()
                digest.update(f"\0{entry.path}\0{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _encoded(found: Structure) -> dict[str, Any]:
    files = [
        [sorted(needs), {module: sorted(names) for module, names in modules.items()}]
        for needs, modules in found.items()
        if isinstance(needs, frozenset)
    ]
    folders = {name: _encoded(inside) for name, inside in found.items() if isinstance(name, str)}
    return {"files": files, "folders": folders}


def _decoded(values: Mapping[str, Any]) -> Structure:
    found: Structure = {
        frozenset(needs): {module: set(names) for module, names in modules.items()}
        for needs, modules in values["files"]
    }
    return found | {name: _decoded(inside) for name, inside in values["folders"].items()}
