"""What a registry asks of its storage: objects that are created whole or not at all, read by ranges, and listed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from hybrid_llm.core.errors import ConfigError

_PATH: Final = re.compile(r"[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object in a listing: its path, its size, and when the storage got it, in seconds since 1970 by its clock."""

    path: str
    bytes: int
    modified: float


class Storage(Protocol):
    """A folder of objects. Paths are relative to it, with `/`. Any thread may call.

    Whatever is created can be read and is listed at once, as Amazon S3, Google Cloud Storage and Azure promise. All
    methods raise `RegistryError` where the storage cannot be used.
    """

    @property
    def url(self) -> str:
        """The folder, without credentials."""

    def create(self, path: str, data: bytes) -> bool:
        """Write an object in one step; False, and nothing is written, if there is one."""

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Its bytes from *start* to *end*, by default all; None if there is none."""

    def stat(self, path: str) -> Stored | None:
        """What a listing says of it; None if there is none."""

    def list(self, folder: str) -> list[Stored]:
        """All objects under *folder*, at any depth, in the order of their paths."""

    def delete(self, path: str) -> None:
        """Delete an object, if there is one."""


def check_path(path: str) -> str:
    """*path*, if it stays inside of the storage and every kind of storage can have it.

    Raises:
        ConfigError: it does not.
    """
    if not _PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        raise ConfigError(f"{path!r} cannot be a path of a registry")
    return path
