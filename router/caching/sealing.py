"""How answers are encrypted at rest, and the file of the key.

Each entry has an AES-256-GCM key of its own, derived from the secret of the file and a random salt (NIST SP 800-108,
counter mode with HMAC-SHA256), and a random nonce: however many entries several processes write, no pair of key and
nonce comes twice (SP 800-38D allows 2^32 random nonces for one key). The associated data are the version of the format,
the name of the entry and the time at which it was stored: an entry that is moved to another name, or made younger, does
not open.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Request
from hybrid_llm.router.caching.answers import entry_name

_VERSION: Final = b"hybrid-llm answer 1"
_SALT: Final = 16
_NONCE: Final = 12
_HEX: Final = re.compile(rb"[0-9a-f]{64}\n?")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Sealer:
    """Names and encrypts entries under the 32 bytes of *secret*."""

    def __init__(self, secret: bytes) -> None:
        self._naming = _derived(secret, b"names", b"")
        self._sealing = _derived(secret, b"entries", b"")

    def name(self, request: Request) -> bytes:
        """The 32 bytes under which the answer to *request* is stored."""
        return entry_name(request, self._naming)

    def seal(self, plain: bytes, name: bytes, stored: int) -> bytes:
        """*plain* for the entry *name*, which is stored at this time, encrypted."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
        cipher = AESGCM(_derived(self._sealing, b"entry", salt))
        return salt + nonce + cipher.encrypt(nonce, plain, _bound(name, stored))

    def open(self, sealed: bytes, name: bytes, stored: int) -> bytes | None:
        """What was sealed for exactly this entry; None if it is anything else."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt, nonce, rest = sealed[:_SALT], sealed[_SALT : _SALT + _NONCE], sealed[_SALT + _NONCE :]
        try:
            return AESGCM(_derived(self._sealing, b"entry", salt)).decrypt(nonce, rest, _bound(name, stored))
        except (InvalidTag, ValueError):  # garbled, or too short for a nonce
            return None


def _bound(name: bytes, stored: int) -> bytes:
    """The associated data of an entry; the name, a MAC over the request, stands for tenant, tags and options too."""
    return b"%b %b %d" % (_VERSION, name.hex().encode(), stored)


def _derived(key: bytes, label: bytes, context: bytes) -> bytes:
    """A key of 256 bits that belongs to *label* and *context* (SP 800-108r1, 4.1)."""
    return hmac.digest(key, b"\0\0\0\x01%b\0%b\0\0\x01\0" % (label, context), "sha256")


def secret_at(path: Path) -> bytes:
    """The secret in the file at *path*, which is created, for its owner alone, where there is none.

    Raises:
        ConfigError: other users can read the file, or it is no key.
        OSError: it can be neither read nor created.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        _create(path)
    return _read(path)


def unsafe_mode(path: Path) -> str:
    """What is wrong with the permissions of the file at *path*; empty if only its owner can use it."""
    mode = path.stat().st_mode
    if os.name != "posix" or not mode & _OTHERS:
        return ""
    return f"other users of this machine can read {path} (mode {stat.S_IMODE(mode):04o})"


def _read(path: Path) -> bytes:
    if problem := unsafe_mode(path):
        raise ConfigError(f"{problem}; run chmod 600 {path}", path=str(path))
    text = path.read_bytes() if path.is_file() else b""  # a pipe would be waited for
    if not _HEX.fullmatch(text):
        remedy = "name the key of the cache, or a file that does not exist and is then created"
        raise ConfigError(f"{path} is no key of an answer cache: {remedy}", path=str(path))
    return bytes.fromhex(text.decode("ascii"))


def _create(path: Path) -> None:
    """Write a new key; of several processes that do this at once, the first one's stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_hex(32).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()


class KeyHold:
    """Holds the key file at *path* as long as a client has the cache open.

    Raises:
        OSError: it cannot be opened, or another client is deleting the cache.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        if not _lock(self._handle, "LOCK_SH"):
            self.release()
            raise BlockingIOError(f"{path} is in use")

    def is_alone(self) -> bool:
        """Whether no other client, of this process or another, holds it; nobody can come to hold it until `release`."""
        alone = _lock(self._handle, "LOCK_EX")
        if not alone:  # asking for it has given up the shared one
            _lock(self._handle, "LOCK_SH")
        return alone

    def release(self) -> None:
        """Let go of it."""
        os.close(self._handle)


def _lock(handle: int, how: str) -> bool:
    """Lock it without waiting; where there are no locks it is shared, and nobody is ever alone."""
    if sys.platform == "win32":  # a file that is open elsewhere cannot be deleted there anyway
        return True
    import fcntl

    try:
        fcntl.flock(handle, getattr(fcntl, how) | fcntl.LOCK_NB)
    except OSError as error:
        return how == "LOCK_SH" and not isinstance(error, BlockingIOError)
    return True
