"""The entry of a backend whose model follows an alias of a registry. Nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from hybrid_llm.backends.edge.store import ModelStore
from hybrid_llm.backends.following.keys import FOLLOW, FollowSpec
from hybrid_llm.core.fields import Found, Key, Table
from hybrid_llm.core.request import Location

if TYPE_CHECKING:
    from hybrid_llm.backends.following.backend import FollowingBackend
    from hybrid_llm.backends.signing.trust import Trust
    from hybrid_llm.core.protocols import Backend

T = TypeVar("T")


class Followable(Protocol):
    """The entry of a backend whose model can be another one."""

    kind: ClassVar[str]
    location: ClassVar[Location]

    @property
    def name(self) -> str:
        """The backend's name."""

    @property
    def trust(self) -> Trust | None:
        """Who must have signed the model."""

    def fingerprint(self) -> str | None:
        """What the backend's speed depends on."""

    def open(self) -> Backend:
        """Make the backend."""

    def with_model(self, folder: Path, *, loaded: bool) -> Followable:
        """The same with the model in *folder*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowingSpec:
    """The entry of a backend whose model follows an alias: *entry* with its own model, and what it follows."""

    entry: Followable
    follow: FollowSpec

    @property
    def kind(self) -> str:
        """The kind of the backend."""
        return self.entry.kind

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.entry.name

    @property
    def location(self) -> Location:
        """Where it runs."""
        return self.entry.location

    @property
    def current(self) -> Followable:
        """The entry with the version that is in use on this device; as it is where none has come yet."""
        from hybrid_llm.backends.models.registry.device import DeviceModel

        model = DeviceModel(ModelStore(), self.follow.model)
        return self.entry.with_model(model.folder(model.current), loaded=False) if model.current else self.entry

    def fingerprint(self) -> str | None:
        """That of the version in use."""
        return self.current.fingerprint()

    def open(self) -> FollowingBackend:
        """Make the backend; ConfigError if neither its version nor its own model can be used."""
        from hybrid_llm.backends.following.backend import FollowingBackend

        return FollowingBackend(self.follow, self.entry)


def in_use(spec: T) -> T | Followable:
    """*spec*, or where its model follows an alias, the entry with the version that is in use on this device."""
    return spec.current if isinstance(spec, FollowingSpec) else spec


def followable(declared: Table) -> Table:
    """*declared*, the keys of a kind of backend whose entries are `Followable`, with the key `follow`."""
    about = (
        "The model follows an alias of a registry: `{registry: URL, model: NAME, alias: prod}`. Until its first "
        "version has arrived, `model` answers."
    )

    def make(found: Found) -> object:
        values = {name: value for name, value in found.values.items() if name != "follow"}
        entry, follow = declared.make(replace(found, values=values)), found.values["follow"]
        return entry if follow is None else FollowingSpec(entry=entry, follow=follow)

    return replace(declared, keys=(*declared.keys, Key("follow", FOLLOW, about)), make=make)
