"""The keys under `cache` of `hybrid.yaml`. Nothing is opened, and no encryption imported, until `open`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.core import fields
from hybrid_llm.core.fields import SECONDS, Key, Quantity, Table, table
from hybrid_llm.router.caching.answers import AnswerCache
from hybrid_llm.router.signals.store import state_folder

_BYTES: Final = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_SIZE: Final = Quantity(
    "a size such as 256MiB", {**_BYTES, **{f" {unit}": count for unit, count in _BYTES.items()}}, least=2.0**20
)
_DAY_S: Final = 86_400.0
_AGE: Final = Quantity("a duration such as 7d", {**SECONDS, "d": _DAY_S})
_MANY: Final = 10**9
"""Entries of a cache whose limit is its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCacheSpec:
    """Answers are cached in the memory of the process."""

    size: float = fields.key(_SIZE, "How much memory the answers take at most.", default=64 * 2.0**20)
    max_age_s: float = fields.key(_AGE, "Time after which an answer expires.", name="max_age", default=3600.0)

    def open(self) -> AnswerCache:
        """Make the cache."""
        from hybrid_llm.router.caching.memory import MemoryCache

        return MemoryCache(max_entries=_MANY, max_bytes=int(self.size), ttl_s=self.max_age_s)


_KEY_FILE: Final = "The file of the key, created with mode 0600 if needed; by default beside the answers, as `.key`."
_KEY: Final = Table(
    title="key",
    about="Where the key is that encrypts the answers.",
    keys=(Key("file", fields.File(), _KEY_FILE),),
    make=lambda found: found.values["file"],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCacheSpec:
    """Answers are cached in an encrypted file, which processes may share and which outlives them."""

    path: Path | None = fields.key(
        fields.File(), "The file; by default `answers.db` in the user's folder for state.", default=None
    )
    size: float = fields.key(_SIZE, "How large the file gets.", default=256 * 2.0**20)
    max_age_s: float = fields.key(_AGE, "Time after which an answer expires.", name="max_age", default=7 * _DAY_S)
    key_file: Path | None = fields.key(_KEY, _KEY.about, name="key", default=None)

    @property
    def file(self) -> Path:
        """The file of the answers."""
        return self.path or state_folder() / "answers.db"

    @property
    def key(self) -> Path:
        """The file of the key."""
        return self.key_file or self.file.with_suffix(".key")

    def open(self) -> AnswerCache:
        """Make the cache; ConfigError if others can read its key."""
        from hybrid_llm.router.caching.disk import DiskCache

        return DiskCache(self.file, key_file=self.key, size=int(self.size), max_age_s=self.max_age_s)


CacheSpec = MemoryCacheSpec | DiskCacheSpec
_KINDS: Final[Mapping[str, type[CacheSpec]]] = {"memory": MemoryCacheSpec, "disk": DiskCacheSpec}


def _table(kind: str) -> Table:
    """The keys of a cache of *kind*."""
    spec: Callable[..., CacheSpec] = _KINDS[kind]
    return table(_KINDS[kind], f"a cache of kind `{kind}`", make=lambda found: spec(**found.values))


CACHE: Final = fields.Variants("cache", lambda: tuple(_KINDS), _table)
