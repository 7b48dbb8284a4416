"""What a registry stores: the manifest of a version, and the entries of an alias. Both are never changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import parse_json

FORMAT: Final = 1
PIECE: Final = 4 << 20
"""Bytes of a piece of a file: what is uploaded or downloaded again after a cut."""
MOST_BYTES: Final = 64 << 20
"""Of a manifest, a signature or an entry: whoever writes to the storage shall not fill the memory of devices."""
SHORT: Final = 12
"""Digits of a version that people see."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file of a version: its SHA-256 and size, and the SHA-256 of each of its pieces of `PIECE` bytes, in order."""

    sha256: str
    bytes: int
    pieces: tuple[str, ...]

    def piece_bytes(self, number: int) -> int:
        """The size of a piece: the last one has what is left."""
        return min(PIECE, self.bytes - number * PIECE)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a model, as its own files say it.

    Attributes:
        kind: `onnx`, `encoder`, `huggingface`, `adapter` or `folder`.
        task: what it is for, such as `classify` or `generate`; empty if unknown.
        licence: of the weights, by its SPDX identifier where it has one.
        parameters: how many; 0 if unknown.
        metrics: of its evaluation; the name has the unit.
        lineage: role, such as `base` or `data`, -> what it was made from: a name, or a digest.
    """

    kind: str
    task: str = ""
    licence: str = "unknown"
    parameters: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionManifest:
    """A version: the name of the model, its files and what is known of it. Its digest is the version."""

    name: str
    files: Mapping[str, FileRecord]
    about: About

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files.values())

    @property
    def pieces(self) -> frozenset[str]:
        """The digests of all pieces."""
        return frozenset(piece for file in self.files.values() for piece in file.pieces)

    def encode(self) -> bytes:
        """The JSON of it, the same for the same content."""
        data = {"format": FORMAT, **asdict(self)}
        return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> VersionManifest:
        """Read what `encode` wrote.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is something else.
        """
        found: Any = parse_json(data)
        if found["format"] != FORMAT:
            raise ValueError(f"it has format {found['format']}; this release reads {FORMAT}")
        about = {**found["about"], "metrics": {k: float(v) for k, v in found["about"]["metrics"].items()}}
        files = {check_file(name): _file(file) for name, file in found["files"].items()}
        return cls(name=check_model(found["name"]), files=files, about=About(**about))


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasEntry:
    """Where an alias points since its *number*-th move.

    Attributes:
        version: the digest of the version.
        previous: the number of the entry that `rollback` returns to; 0 for none.
        share: of the devices that follow the alias, 0 to 1; the others stay with what it meant before.
        moved: when, by the clock of who moved it, in ISO 8601.
        token: distinguishes this move from every other one.
    """

    alias: str
    number: int
    version: str
    previous: int = 0
    share: float = 1.0
    moved: str = ""
    token: str = ""

    def encode(self) -> bytes:
        """The JSON of it."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> AliasEntry:
        """Read what `encode` wrote; errors as those of `VersionManifest.decode`."""
        found: Any = parse_json(data)
        if found.pop("format") != FORMAT:
            raise ValueError("it has another format")
        check_digest(found["version"])
        entry = cls(**{**found, "share": float(found.get("share", 1.0))})
        if not 0.0 < entry.share <= 1.0:
            raise ValueError("its share is not more than 0 and at most 1")
        if type(entry.number) is not int or type(entry.previous) is not int or not 0 <= entry.previous < entry.number:
            raise ValueError("it does not refer to an entry before it")
        return entry


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def check_model(name: str) -> str:
    """*name*, if a model or an alias may have it.

    Raises:
        ConfigError: it has other characters, or is too long.
    """
    if not _NAME.fullmatch(name):
        allowed = "1 to 64 lower-case letters, digits, dots, hyphens and underscores, a letter or digit first"
        raise ConfigError(f"{name!r} cannot name a model or an alias: use {allowed}")
    return name


def check_digest(text: str) -> str:
    """*text*, if it is a SHA-256 in hex; else ValueError."""
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise ValueError("a digest is 64 hex digits")
    return text


def check_file(name: str) -> str:
    """*name*, if it is a relative path that stays in its folder on every system; else ValueError."""
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and not any(mark in name for mark in '\\:"<>|?*')
    if not plain or not parts or "/".join(parts) != name or name.startswith("/") or ".." in parts:
        raise ValueError(f"{name!r} is not a path in a model folder")
    return name


def _file(data: Mapping[str, Any]) -> FileRecord:
    size, pieces = data["bytes"], tuple(check_digest(piece) for piece in data["pieces"])
    if type(size) is not int or size < 0 or len(pieces) != -(-size // PIECE):
        raise ValueError("the pieces of a file are not those of its size")
    return FileRecord(sha256=check_digest(data["sha256"]), bytes=size, pieces=pieces)


def pieces_of(manifest: VersionManifest) -> Iterator[tuple[str, int, str]]:
    """File, number of the piece in it, and its digest."""
    for name, file in manifest.files.items():
        for number, piece in enumerate(file.pieces):
            yield name, number, piece
