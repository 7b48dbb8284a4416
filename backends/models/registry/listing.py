"""What a registry has, as rows: by model, task, licence and metrics."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hybrid_llm.backends.models.registry.records import SHORT, About, VersionManifest
from hybrid_llm.backends.models.registry.registry import ModelRegistry
from hybrid_llm.core.errors import InvalidRequest

OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_BOUND: Final = re.compile(r"(?P<metric>[^<>=]+)(?P<operator>>=|<=|>|<)(?P<value>[^<>=]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One version in a list; *published* is in seconds since 1970."""

    name: str
    digest: str
    published: float
    bytes: int
    about: About
    aliases: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The beginning of the digest."""
        return self.digest[:SHORT]

    @classmethod
    def of(cls, digest: str, published: float, manifest: VersionManifest, aliases: Sequence[str]) -> Listed:
        """The row of a version."""
        size, names = manifest.total_bytes, tuple(sorted(aliases))
        about = manifest.about
        return cls(name=manifest.name, digest=digest, published=published, bytes=size, about=about, aliases=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A metric that a version must have, within a bound."""

    metric: str
    operator: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Bound:
        """Read `accuracy>=0.8`.

        Raises:
            InvalidRequest: it is of another form.
        """
        match = _BOUND.fullmatch(text.replace(" ", ""))
        try:
            if match is None:
                raise ValueError
            return cls(metric=match["metric"], operator=match["operator"], value=float(match["value"]))
        except ValueError:
            message = f"{text!r} is not METRIC>=NUMBER, nor with <=, > or <"
            raise InvalidRequest(message, field="where") from None

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether *metrics* are within it."""
        return self.metric in metrics and OPERATORS[self.operator](metrics[self.metric], self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which versions are listed; an empty text means any."""

    name: str = ""
    kind: str = ""
    task: str = ""
    licence: str = ""
    bounds: tuple[Bound, ...] = ()

    def accepts(self, row: Listed) -> bool:
        """Whether *row* is one of them."""
        pairs = (
            (self.name, row.name),
            (self.kind, row.about.kind),
            (self.task, row.about.task),
            (self.licence.lower(), row.about.licence.lower()),
        )
        return all(wanted in ("", found) for wanted, found in pairs) and all(
            bound.holds(row.about.metrics) for bound in self.bounds
        )


def listed(registry: ModelRegistry, wanted: Filter) -> list[Listed]:
    """The versions that *wanted* accepts, by name, the newest first; every manifest is read.

    Raises:
        RegistryError, ConfigError, SecurityError: the registry cannot be read.
    """
    rows = [
        Listed.of(digest, published, registry.version(name, digest, published).manifest, aliases.get(digest, ()))
        for name in registry.names()
        if wanted.name in ("", name)
        for aliases in [aliases_by_version(registry, name)]
        for digest, published in registry.versions(name)
    ]
    return [row for row in rows if wanted.accepts(row)]


def aliases_by_version(registry: ModelRegistry, name: str) -> dict[str, list[str]]:
    """Digest -> the aliases that point to it now."""
    found: dict[str, list[str]] = {}
    for alias, entry in registry.aliases(name).items():
        found.setdefault(entry.version, []).append(alias)
    return found


def rows_of(rows: Sequence[Listed], metrics: int = 3) -> Iterator[tuple[str, ...]]:
    """The cells of a table for people, with up to *metrics* metrics of each version."""
    for row in rows:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(row.about.metrics.items())[:metrics])
        yield (
            row.name,
            row.short,
            ", ".join(row.aliases),
            row.about.kind,
            row.about.task,
            row.about.licence,
            f"{row.bytes / 1e6:,.1f}",
            shown,
        )
