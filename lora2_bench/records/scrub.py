"""What never leaves this machine: tokens, passwords, home folders, absolute paths, the names of user and host."""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lora2_bench.files.paths import CONF

_PINS = ("sha256", "revision")  # settings that hold a hash, which would pass for a token
_HIDDEN = "***"
_SECRET_NAMES = re.compile(r"(?i:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIALS?)(?i:_ID)?$")
# what `model.sha256=...` and `model.revision=...` are followed by, on a command line and in their errors
_PINNED = "".join(f"(?<!{name}{sign})" for name in _PINS for sign in ("=", "='", " must be "))
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{8,}|wandb_v\d_\w{8,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|pypi-[\w-]{16,}"
    r"|sk-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}"
    rf"|{_PINNED}[0-9a-f]{{40,}}(?![0-9a-f]))"
)
# `api_key=...`, `token: ...`, also inside the query of a URL
_NAMED = re.compile(r"(?i)((?:\b|_)(?:api_?key|token|secret|password|passwd)['\"]?\s*[=:]\s*['\"]?)[^\s,;'\"&}]{6,}")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_PATH = re.compile(r"(?:(?<![\w.:/])|(?<=:)(?!//)|(?<=file://))(?:~|/)[^\s,;'\"]*/")
# a value that is a path, alone or after NAME=: all of it, blanks too, up to its last part
_WHOLE = re.compile(r"^((?:[+~]*[\w.@/-]+=)?['\"]?)(?:~|/)[^'\"\[\]{}]*/")
# accounts and hosts of containers and images, which tell nobody's name
_NOBODY = {"root", "user", "ubuntu", "admin", "nobody", "runner", "jovyan", "localhost", "host", "home", "results"}


def hide_secrets(text: str) -> str:
    """`text` without tokens and passwords: for lines that a terminal shows, whose paths a user needs."""
    for value in _secret_values():
        text = text.replace(value, _HIDDEN)
    text = _CREDENTIALS.sub(f"{_HIDDEN}@", text)
    return _TOKENS.sub(_HIDDEN, _NAMED.sub(rf"\1{_HIDDEN}", text))


def shorten_home(text: str) -> str:
    """`text` with `~` for the home folder, which `expanduser` puts back: for paths that are read back."""
    home = _home()
    return text if home is None else re.sub(re.escape(home) + r"(?![\w.-])", "~", text)


def hide_home(text: str) -> str:
    """`text` without secrets, and with `~` for the home folder: for notes and logs that stay on this machine."""
    return hide_secrets(shorten_home(text))


def scrub(text: str) -> str:
    """`text` without secrets, home or other absolute paths, and the names of user and host: for records and W&B."""
    text = _PATH.sub(".../", hide_home(text))
    for pattern, name in _names():
        text = pattern.sub(name, text)
    return text


def scrubbed(value: Any) -> Any:
    """`value`, plain data, with every string in it scrubbed, but for the hashes that pin a backbone."""
    if isinstance(value, dict):
        return {name: item if name in _PINS else scrubbed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(item) for item in value]
    return scrub(_WHOLE.sub(r"\1.../", hide_home(value))) if isinstance(value, str) else value


def _secret_values() -> list[str]:
    """What the environment's tokens and passwords are, the longest first."""
    found = {value for name, value in os.environ.items() if len(value) >= 8 and _SECRET_NAMES.search(name)}
    return sorted(found, key=len, reverse=True)


def _home() -> str | None:
    """The home folder; None without one, and where it is the root: then nothing would be left of any path."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return None
    return home if len(home) > 1 else None


def _names() -> list[tuple[re.Pattern[str], str]]:
    """Patterns of the user's names and the host's, each with what stands in its place."""
    users = {os.environ.get("USER"), os.environ.get("LOGNAME"), Path(_home() or "/").name, _account()}
    host = socket.gethostname()
    return [*_patterns(users, "user"), *_patterns({host, host.partition(".")[0]}, "host")]


def _account() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def _patterns(names: set[str | None], instead: str) -> Iterator[tuple[re.Pattern[str], str]]:
    """A pattern for each whole word among `names` that names somebody, and is no word of the configs."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        if len(name) > 2 and name.lower() not in _NOBODY and name not in _own_words():
            yield _word(name), instead


@lru_cache(maxsize=64)
def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")


@cache
def _own_words() -> frozenset[str]:
    """Names of config groups and of their choices: an account named `lora` must not make a record unreadable."""
    return frozenset(path.stem for path in CONF.rglob("*") if not path.name.startswith("."))
