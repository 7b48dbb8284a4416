"""Sealing keys and their files: private ones in a node's folder, public ones in a file that an app pins.

A file is text: a key on a line, `SUITE NOT-AFTER BASE64`, with comments after `#`. So the public keys of several nodes,
or the old and the new one, are put together by `cat`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

from hybrid_llm.backends.wire.sealing.suites import SUITES, SealSuite
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import Stamp, replacing, stamp_of, warn_of_readers

PRIVATE: Final = ".seal"
PUBLIC: Final = ".seal.pub"
EVIDENCE: Final = ".evidence"
"""The endings of a key's files."""
_WATCHED: Final = (PRIVATE, EVIDENCE)
_LOOK_S: Final = 1.0
"""How often a folder is looked at for changes, seconds."""
_log = logging.getLogger(__name__)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_LARGEST: Final = 1024 * 1024
_EARLIEST: Final = 1970
"""The year with which the times of keys begin: a digest counts them from there."""


@dataclass(frozen=True, kw_only=True)
class KeyConfig:
    """A public sealing key: what a node publishes, and an app pins. *not_after* is UTC, in whole seconds."""

    suite: SealSuite
    public: bytes
    not_after: datetime
    evidence: bytes = field(default=b"", compare=False)
    """What a verifier may check, such as a confidential VM's report; opaque here, and no part of the digest."""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all but the evidence."""
        parts = (self.suite.name.encode(), self.public, int(self.not_after.timestamp()).to_bytes(8, "big"))
        lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
        return hashlib.sha256(b"hybrid-llm sealing key 1" + lengths + b"".join(parts)).digest()

    @property
    def key_id(self) -> bytes:
        """The first 8 bytes of the digest, by which a request names its key."""
        return self.digest[:8]

    def expired(self, now: datetime) -> bool:
        """Whether nothing may be sealed to it any more."""
        return now >= self.not_after

    def line(self) -> str:
        """The key as a line of a file."""
        return _line(self.suite, self.not_after, self.public)


@dataclass(frozen=True, kw_only=True)
class SealKey:
    """A private sealing key of a node, and what it publishes of it."""

    config: KeyConfig
    private: bytes = field(repr=False)

    @classmethod
    def make(cls, suite: SealSuite, not_after: datetime) -> SealKey:
        """Make a new key; ConfigError if this machine lacks the algorithm."""
        suite.check()
        return cls.of(suite, suite.generate(), not_after.replace(microsecond=0))

    @classmethod
    def of(cls, suite: SealSuite, private: bytes, not_after: datetime) -> SealKey:
        """The key whose bytes are *private*; ValueError if they are none."""
        config = KeyConfig(suite=suite, public=suite.public_of(private), not_after=not_after)
        return cls(config=config, private=private)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Return the plaintext; raises `DecryptionFailed`."""
        return self.config.suite.open(self.private, sealed, info)


def write_key(folder: str | Path, name: str, *, suite: SealSuite, days: float) -> KeyConfig:
    """Make NAME.seal, which only its owner can read, and NAME.seal.pub in *folder*.

    Raises:
        ConfigError: *name* is taken or no name, or the folder cannot be written.
    """
    root = Path(folder)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a key: use a-z, 0-9, dot, dash, underscore")
    private, public = root / f"{name}{PRIVATE}", root / f"{name}{PUBLIC}"
    if private.exists() or public.exists():
        raise ConfigError(f"{private} exists; what is sealed to it could not be opened: choose another name")
    key = SealKey.make(suite, datetime.now(UTC) + timedelta(days=days))
    secret = _line(suite, key.config.not_after, key.private)
    note = f"# digest sha256:{key.config.digest.hex()}\n"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(public, f"{note}{key.config.line()}\n", 0o644)
        _write(private, f"# private: keep it on the node\n{note}{secret}\n", 0o600)
    except OSError as error:
        raise ConfigError(f"{root} cannot be written: {error.strerror}", path=str(root)) from error
    return key.config


def _write(path: Path, text: str, mode: int) -> None:
    with replacing(path, mode=mode, sync=True) as file:
        file.write(text.encode())


def read_public(path: Path) -> tuple[KeyConfig, ...]:
    """Return the public keys of a file, in its order.

    Raises:
        ConfigError: it is missing, has none, or a line is no public key; the message says which.
    """
    return tuple(
        KeyConfig(suite=suite, public=data, not_after=not_after)
        for suite, not_after, data in _lines(path, lambda suite: suite.public_bytes, "public")
    )


def read_private(path: Path) -> tuple[SealKey, ...]:
    """Return the private keys of a file, in its order, with the evidence beside it; raises as `read_public` does."""
    warn_of_readers(path, "a private sealing key")
    found = _lines(path, lambda suite: suite.private_bytes, "private")
    keys = [SealKey.of(suite, data, not_after) for suite, not_after, data in found]
    evidence = path.with_name(path.name.removesuffix(PRIVATE) + EVIDENCE)
    proof = _read(evidence) if evidence.exists() else b""
    return tuple(replace(key, config=replace(key.config, evidence=proof)) for key in keys)


def _line(suite: SealSuite, not_after: datetime, data: bytes) -> str:
    return f"{suite.name} {not_after:{_TIME}} {base64.b64encode(data).decode()}"


def _lines(path: Path, size: Callable[[SealSuite], int], kind: str) -> Iterator[tuple[SealSuite, datetime, bytes]]:
    """The keys of a file, each of *size* bytes; messages never quote a line, which may be a private key."""
    count = 0
    for number, line in enumerate(_read(path).decode("utf-8", "replace").splitlines(), 1):
        if not (words := line.partition("#")[0].split()):
            continue
        try:
            name, until, text = words
            suite, not_after = SUITES[name], datetime.strptime(until, _TIME).replace(tzinfo=UTC)
            data = base64.b64decode(text, validate=True)
            if len(data) != size(suite) or not_after.year < _EARLIEST:
                raise ValueError
        except (KeyError, ValueError, binascii.Error):
            wanted = f"a {kind} sealing key: {' or '.join(SUITES)}, a time such as 2027-03-01T00:00:00Z, and the key"
            raise ConfigError(f"{path}:{number} is not {wanted}", path=str(path)) from None
        suite.check()
        count += 1
        yield suite, not_after, data
    if not count:
        raise ConfigError(
            f"{path} holds no {kind} sealing key; make one with `hybrid-llm certs seal-key`", path=str(path)
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        hint = "make one with `hybrid-llm certs seal-key`"
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {hint}", path=str(path)) from None
    if len(data) > _LARGEST:
        raise ConfigError(f"{path} is larger than {_LARGEST} bytes", path=str(path))
    return data


class KeyRing:
    """The private keys in *folder*: all files `*.seal`, the key that expires last first. They are read again on change.

    Raises:
        ConfigError: there is none, or a file is unusable. Later, the last good keys stay in use, and it is logged.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._stamps = self._look()
        self._keys = self._load()
        self._looked = clock()

    def keys(self) -> Mapping[bytes, SealKey]:
        """The keys by id, expired ones too."""
        if abs(self._clock() - self._looked) >= _LOOK_S:
            self.reload()
        return self._keys

    def offered(self) -> tuple[KeyConfig, ...]:
        """What apps may seal to now, the key to prefer first."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        return tuple(key.config for key in self.keys().values() if not key.config.expired(now))

    def reload(self) -> None:
        """Read the folder again if something in it changed; on any fault the keys stay as they are."""
        self._looked, before, self._stamps = self._clock(), self._stamps, self._look()
        if self._stamps == before:
            return
        try:
            self._keys = self._load()
        except ConfigError as error:
            _log.error("the sealing keys changed, but cannot be used: %s", error)
        else:
            _log.info("sealing keys reloaded from %s: %d", self._folder, len(self._keys))

    def _load(self) -> Mapping[bytes, SealKey]:
        found = [key for path in self._files() for key in read_private(path)]
        if not found:
            hint = f"make one with `hybrid-llm certs seal-key {self._folder} --name NAME`"
            raise ConfigError(f"{self._folder} holds no sealing key (*{PRIVATE}); {hint}", path=str(self._folder))
        found.sort(key=lambda key: key.config.not_after, reverse=True)
        return {key.config.key_id: key for key in found}

    def _files(self) -> list[Path]:
        # Kubernetes swaps the folder behind its links first, and removes the links of what is gone a moment later.
        return sorted(path for path in self._folder.glob(f"*{PRIVATE}") if path.exists())

    def _look(self) -> list[tuple[str, Stamp | None]]:
        return [(path.name, stamp_of(path)) for path in sorted(self._folder.glob("*")) if path.suffix in _WATCHED]
