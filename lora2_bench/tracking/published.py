"""The note `published.json` beside a record: the projects to which it has been mirrored."""

from __future__ import annotations

from pathlib import Path

from lora2_bench.files.reading import read_json
from lora2_bench.files.writing import write_json
from lora2_bench.records.store import Store


def is_published(store: Store, cell_id: str, project: str) -> bool:
    """Whether a cell's record, as it stands, has been mirrored to a project."""
    return project in _projects(store, cell_id)


def mark_published(store: Store, cell_id: str, project: str) -> None:
    """Note that a cell's record has been mirrored. The note is lost with the record that it stands beside."""
    if project not in (known := _projects(store, cell_id)):
        write_json(_marker(store, cell_id), {"projects": [*known, project]})


def _projects(store: Store, cell_id: str) -> list[str]:
    try:
        projects = read_json(_marker(store, cell_id))["projects"]
        return [project for project in projects if isinstance(project, str)]
    except (OSError, ValueError, LookupError, TypeError):  # none, or no note of this package: sent again, which is safe
        return []


def _marker(store: Store, cell_id: str) -> Path:
    return store.folder(cell_id) / "published.json"
