"""Who may ask: hosts on loopback, and the token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.serving.http.responses import Refused

TOKEN_VARIABLE = "LORA2_BENCH_TOKEN"
LEAST_TOKEN = 16
_OPEN = ("/", "/health")  # what needs no token: the page holds no data, and has a field for it


class Guard:
    """Refuses requests of others.

    Args:
        token: what every request must bear, but for the page and /health; None asks for none.
        loopback: whether the server listens on loopback alone. Then the name that a browser asked for must be
            loopback's: a foreign page whose name is made to point here (DNS rebinding) has another.
    """

    def __init__(self, token: str | None, loopback: bool) -> None:
        self._token = None if token is None else _digest(token.encode())
        self._loopback = loopback

    def check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Raises Refused."""
        host = headers.get(b"host", b"").decode("latin-1")
        if self._loopback and not _is_loopback_name(host):
            raise Refused(421, "the Host header names no loopback address: ask for 127.0.0.1 or localhost")
        if self._token is None or path in _OPEN:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(_digest(given.strip()), self._token):
            raise Refused(
                401,
                "a token is needed: send the header Authorization: Bearer TOKEN",
                [(b"www-authenticate", b"Bearer")],
            )


def read_token(path: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token of a file or else of LORA2_BENCH_TOKEN; None where neither is given. Raises UserError."""
    if path is None:
        text = environment.get(TOKEN_VARIABLE, "")
        name = TOKEN_VARIABLE
        if not text:
            return None
    else:
        name = f"--token-file {path}"
        try:
            text = path.read_text(encoding="ascii")
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror}): give a file with a token") from None
        except UnicodeDecodeError:
            raise UserError(f"{name} holds no token: give one of {LEAST_TOKEN} or more letters and digits") from None
    token = text.strip()
    if not re.fullmatch(rf"[!-~]{{{LEAST_TOKEN},512}}", token):  # what it is instead is not told: it may be a secret
        raise UserError(
            f"{name} holds no token: give one of {LEAST_TOKEN} to 512 signs without blanks, as of openssl rand -hex 32"
        )
    return token


def is_loopback(address: str) -> bool:
    """Whether an IP address, with or without a zone, is one of loopback's."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _is_loopback_name(host: str) -> bool:
    """Whether a Host header is localhost or an IP address of loopback; any port, for it may have been forwarded."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?", host)
    if not found:
        return False
    name = found[1].strip("[]")
    if name.lower() == "localhost":
        return True
    try:
        return is_loopback(name)
    except ValueError:
        return False


def _digest(token: bytes) -> bytes:
    """Digests are of one length, so that comparing them tells nothing of the token's."""
    return hashlib.sha256(token).digest()
