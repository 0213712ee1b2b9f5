"""Records in one file: a zip of plain JSON, the same bytes for the same records, and read without trust."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Annotated, Any, TypedDict

from lora2_bench.errors import UserError, first_line
from lora2_bench.files.writing import write_bytes, write_whole
from lora2_bench.records.checking import checker
from lora2_bench.records.forms import Range, Sha256
from lora2_bench.records.store import PREDICTIONS, RETENTION, Store

FORMAT = 1
CONTENTS = "contents.json"
MOST_FILES = 200_000
MOST_BYTES = 64 * 1024**2
"""Bytes of one file: QQP's 40,430 dev rows take 3 MB."""
MOST_BYTES_ALL = 8 * 1024**3

_FILES = ("record.json", PREDICTIONS, RETENTION)
_NAME = re.compile(rf"cells/([0-9a-f]{{16}})/({'|'.join(map(re.escape, _FILES))})")
# What zipfile raises of files that are none, or damaged.
_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, ValueError, RuntimeError, EOFError)
_EPOCH = (1980, 1, 1, 0, 0, 0)


class _File(TypedDict):
    bytes: Annotated[int, Range(0, MOST_BYTES)]
    sha256: Sha256


class _Contents(TypedDict):
    """What `contents.json`, the first file of the zip, says of the others."""

    lora2_bench_records: int
    files: dict[str, _File]


def pack(store: Store, cell_ids: Iterable[str], output: Path | None) -> Path:
    """Write the zip of these cells' records, predictions and retention; returns its path.

    It lies at `output`, or in `shared/` of the results folder under a name made from a digest of its contents. Raises
    OSError where it cannot be written.
    """
    paths = {
        f"cells/{cell_id}/{name}": path
        for cell_id in sorted(cell_ids)
        for name in _FILES
        if (path := store.folder(cell_id) / name).is_file()
    }
    files = {name: _described(path.read_bytes()) for name, path in paths.items()}
    contents = json.dumps({"lora2_bench_records": FORMAT, "files": files}, indent=1).encode()
    digest = hashlib.sha256(contents).hexdigest()
    path = output or store.results / "shared" / f"lora2-bench-records-{digest[:12]}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(stream: IO[bytes]) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            _add(archive, CONTENTS, contents)
            for name, source in paths.items():
                _add(archive, name, source.read_bytes())

    write_whole(path, write)
    return path


def _described(content: bytes) -> _File:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as on every machine
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=6)


def unpack(path: Path, results: Path) -> None:
    """Write the files of a zip of `pack` below an empty results folder.

    No name in the zip becomes a path: each must be one of the three files of a cell, and be listed with its digest.
    Raises UserError for anything else, before any of it is used.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive)
            contents = _contents(archive, entries)
            for name, wanted in contents["files"].items():
                match = _NAME.fullmatch(name)
                assert match is not None, "checked by `_contents`"
                content = _read(archive, entries[name], wanted["bytes"])
                if _described(content) != wanted:
                    raise _Refused(f"{name} is not the file that its contents list")
                folder = Store(results).folder(match[1])
                folder.mkdir(parents=True, exist_ok=True)
                write_bytes(folder / match[2], content)
    except _Refused as error:
        raise UserError(f"{path} is refused: {error}; ask for the file of lora2-bench submit as it was made") from None
    except _BROKEN as error:
        reason = first_line(error)
        raise UserError(f"{path} is no zip of records ({reason}): give a file of lora2-bench submit") from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"{path} cannot be unpacked ({reason}): give another file, or free some space") from None


class _Refused(ValueError):
    """A zip that `pack` has not made."""


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    entries = archive.infolist()
    if len(entries) > MOST_FILES:
        raise _Refused(f"it has {len(entries)} files, more than {MOST_FILES}")
    for entry in entries:
        name = entry.filename
        if name != CONTENTS and not _NAME.fullmatch(name):
            raise _Refused(f"{name[:80]!r} is no file of a record")
        if name in found:
            raise _Refused(f"{name} is there twice")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Refused(f"{name} is encrypted, or compressed in another way")
        if entry.file_size > MOST_BYTES:
            raise _Refused(f"{name} has {entry.file_size} bytes, more than {MOST_BYTES}")
        found[name] = entry
    if (total := sum(entry.file_size for entry in entries)) > MOST_BYTES_ALL:
        raise _Refused(f"it holds {total} bytes, more than {MOST_BYTES_ALL}")
    return found


def _contents(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> _Contents:
    if CONTENTS not in entries:
        raise _Refused(f"it has no {CONTENTS}")
    try:
        values: Any = json.loads(_read(archive, entries[CONTENTS], MOST_BYTES))
        checker(_Contents)(values)
    except (ValueError, RecursionError):
        raise _Refused(f"{CONTENTS} does not list files with their digests") from None
    contents: _Contents = values
    if contents["lora2_bench_records"] != FORMAT:
        raise _Refused(f"its format {contents['lora2_bench_records']} is not {FORMAT}, the one this version reads")
    if differing := sorted(contents["files"].keys() ^ (entries.keys() - {CONTENTS})):
        raise _Refused(f"{differing[0][:80]!r} is in the zip or in {CONTENTS}, and not in both")
    return contents


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """The bytes of one file, of which no more than one too many is ever in memory."""
    with archive.open(entry) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise _Refused(f"{entry.filename} is larger than it says")
    return content
