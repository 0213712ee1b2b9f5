"""Where the configs and the cache are."""

from __future__ import annotations

import os
from pathlib import Path

from lora2_bench.errors import UserError

_PACKAGE = Path(__file__).resolve().parent.parent
# An installed wheel carries conf/ inside the package; a checkout has it at the top level.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def cache_folder() -> Path | None:
    """LORA2_BENCH_CACHE, or `lora2-bench` in the user's cache folder. It can be deleted at any time.

    None for an account without a home, as a container's may be.
    """
    own = os.environ.get("LORA2_BENCH_CACHE")
    try:
        if own:
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lora2-bench"
    except RuntimeError:
        return None


def user_path(text: str, setting: str) -> Path:
    """A path that a user typed for `setting`, with `~` and `~name` expanded; it may point nowhere.

    Raises UserError for a user that there is none of, and for a path that the system cannot look up: a name too long,
    a NUL byte, a loop of links, a folder on the way that may not be entered.
    """
    shown = shortened(text)
    try:
        path = Path(text).expanduser()
        path.stat()
    except RuntimeError:
        raise UserError(f"{setting}={shown}: there is no such user: give another path") from None
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it has a NUL byte"
        raise UserError(f"{setting}={shown} cannot be a folder ({reason}): give another") from None
    return path


def file_to_write(text: str, option: str) -> Path:
    """The file that an option names, before anything is computed for it; of a link, the file that it points to.

    Whole files are written by a rename, which would put a file in the place of a link, a device or a pipe. Raises
    UserError where no file can be there.
    """
    if not text:
        raise UserError(f"{option} is empty: give a file")
    path = user_path(text, option)
    path = path.resolve() if path.is_symlink() else path
    if path.is_dir() or not path.absolute().parent.is_dir():
        why = "is a folder" if path.is_dir() else "lies in no folder that is there"
        raise UserError(f"{option} {shortened(text)} {why}: give a file")
    if path.exists() and not path.is_file():
        raise UserError(f"{option} {shortened(text)} is a device or a pipe: give a file")
    return path


def results_folder(text: str) -> Path:
    """The folder that `results` names, which may not be there yet.

    Raises UserError for no name, one that begins as an option does, one that is not UTF-8, and all that `user_path`
    refuses; and for a file.
    """
    if not text.strip():
        raise UserError("results= is empty: give a folder")
    if text.startswith("-"):
        raise UserError(f"results={shortened(text)} begins as an option does: give ./{shortened(text)} for that folder")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"results={shortened(text)} is not UTF-8: give another folder") from None
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise UserError(f"results={shortened(text)} has a sign that cannot be printed: give another folder")
    path = user_path(text, "results")
    if path.exists() and not path.is_dir():
        raise UserError(f"results={shortened(text)} is no folder but a file: give a folder")
    return path


def shortened(text: str, most: int = 80) -> str:
    """What a user typed, as one short line of an error."""
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    return text if text.isprintable() else repr(text)


def below(folder: Path, *names: str) -> Path:
    """`folder / names[0] / ...`: every path below `results` whose names come from elsewhere is made here.

    Raises UserError for a name that would leave the folder, or that is no name of a file: empty, `.`, `..`, one with a
    slash or a NUL byte.
    """
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise UserError(f"{name!r} is no name of a file below {folder}: it must have no slash and not be . or ..")
    return folder.joinpath(*names)
