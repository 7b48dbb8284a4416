"""A registry of models in a storage: names, immutable versions by content hash, and aliases with their history.

    registry.json                            the format, and whether the content is encrypted
    blobs/sha256/AB/ABCDEF...                pieces of files, each once
    models/NAME/VERSION/manifest.json        the version; it is there once all its pieces are
    models/NAME/VERSION/signatures/SHA.sig   who vouches for it
    aliases/NAME/ALIAS/0000000001.json       each move of an alias; the last one counts
    leases/, collecting/                     who is publishing, and who collects garbage (see `leases`)

Nothing is ever overwritten: every object is created under the condition that there is none. So of two who move an
alias at once one creates the next entry and the other does not, on every kind of storage.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.registry.errors import AliasMoved, NoSuchVersion, RegistryError
from hybrid_llm.backends.models.registry.keys import Plain, Sealed, Sealing
from hybrid_llm.backends.models.registry.leases import leased
from hybrid_llm.backends.models.registry.opening import open_storage
from hybrid_llm.backends.models.registry.records import (
    FORMAT,
    MOST_BYTES,
    SHORT,
    AliasEntry,
    VersionManifest,
    check_model,
    digest_of,
)
from hybrid_llm.backends.models.registry.storage import Storage, Stored
from hybrid_llm.core.errors import ConfigError, DecryptionFailed
from hybrid_llm.core.jsontext import parse_json

_ROOT: Final = "registry.json"
_MANIFEST: Final = "manifest.json"
_LEAST_DIGITS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a model that is whole.

    *published* is when, in seconds since 1970 by the clock of the storage.
    """

    digest: str
    manifest: VersionManifest
    published: float = 0.0

    @property
    def name(self) -> str:
        """The model's."""
        return self.manifest.name

    @property
    def short(self) -> str:
        """The beginning of the digest."""
        return self.digest[:SHORT]

    def __str__(self) -> str:
        return f"{self.name}@{self.short}"


class ModelRegistry:
    """The models in *storage*; *sealing* is how content is stored. Any thread may call.

    Every method raises `RegistryError` where the storage cannot be used.
    """

    def __init__(self, storage: Storage, sealing: Sealing | None = None) -> None:
        self.storage: Final = storage
        self.sealing: Final = sealing or Plain()

    @classmethod
    def open(cls, url: str, *, key_file: Path | None = None, create: bool = False) -> ModelRegistry:
        """The registry at *url*.

        Args:
            url: `s3://BUCKET/FOLDER`, `gs://`, `az://`, `file:///FOLDER` or a path.
            key_file: the key of a registry that is encrypted.
            create: begin a registry where there is none.

        Raises:
            ConfigError: the URL is wrong, a library is missing, there is no registry, or it needs a key, or none.
            DecryptionFailed: the key is another one.
        """
        found = cls(open_storage(url), None if key_file is None else Sealed.from_file(key_file))
        root = {"format": FORMAT, "key_check": found.sealing.check}
        data = found._read(_ROOT)
        if data is None and create:
            found.storage.create(_ROOT, json.dumps(root).encode())
            data = found._read(_ROOT)
        if data is None:
            raise ConfigError(f"there is no registry at {found.url}: `hybrid-llm models publish` begins one")
        _check_root(data, found.sealing.check, found.url)
        return found

    @property
    def url(self) -> str:
        """Where it is."""
        return self.storage.url

    def names(self) -> tuple[str, ...]:
        """The models."""
        return tuple(sorted({name for name, _, _ in self._versions("models")}))

    def versions(self, name: str) -> tuple[tuple[str, float], ...]:
        """The digest of each version of *name*, and when it was published; the newest first."""
        found = [(digest, stored.modified) for _, digest, stored in self._versions(f"models/{check_model(name)}")]
        return tuple(sorted(found, key=lambda one: one[1], reverse=True))

    def all_versions(self) -> tuple[tuple[str, str, float], ...]:
        """Name, digest and time of publication of every version."""
        return tuple((name, digest, stored.modified) for name, digest, stored in self._versions("models"))

    def resolve(self, name: str, which: str = "") -> Version:
        """The version of *name* that *which* means: an alias, a digest or the beginning of one; by default the newest.

        Raises:
            NoSuchVersion: there is none, or several digests begin so.
            SecurityError: its manifest was changed.
        """
        check_model(name)
        if which and (entry := self.alias(name, which)):
            return self.version(name, entry.version)
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none"
            raise NoSuchVersion(f"{self.url} has no model `{name}`; it has: {known}")
        fitting = versions[:1] if not which else tuple(one for one in versions if one[0].startswith(which))
        if (which and len(which) < _LEAST_DIGITS) or len(fitting) != 1:
            raise NoSuchVersion(self._no_version(name, which, versions, several=len(fitting) > 1))
        return self.version(name, *fitting[0])

    def version(self, name: str, digest: str, published: float | None = None) -> Version:
        """The version with this *digest*; errors as those of `resolve`."""
        path = self.manifest_path(name, digest)
        stored = self._read(path)
        if stored is None:
            raise NoSuchVersion(f"{self.url} has no version {digest[:SHORT]} of `{name}` any more")
        data = self.sealing.unseal(digest, stored)
        try:
            manifest = VersionManifest.decode(data)
            if manifest.name != name:
                raise ValueError(f"it is of the model {manifest.name}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{self.url}/{path} is not a manifest that this release reads: {error}") from None
        if published is None:
            found = self.storage.stat(path)
            published = 0.0 if found is None else found.modified
        return Version(digest=digest, manifest=manifest, published=published)

    def signatures(self, version: Version) -> list[bytes]:
        """The signatures of a version, the newest first."""
        listed = self.storage.list(f"models/{version.name}/{version.digest}/signatures")
        found = []
        for stored in sorted(listed, key=lambda one: one.modified, reverse=True):
            data = self._read(stored.path)
            if data is not None:
                found.append(self.sealing.unseal(stored.path.rpartition("/")[2].removesuffix(".sig"), data))
        return found

    def add_signature(self, version: Version, signature: bytes) -> bool:
        """Store a signature; False if the version has it already."""
        digest = digest_of(signature)
        path = f"models/{version.name}/{version.digest}/signatures/{digest}.sig"
        return self.storage.create(path, self.sealing.seal(digest, signature))

    def alias(self, name: str, alias: str) -> AliasEntry | None:
        """Where *alias* of *name* points now; None if there is no such alias."""
        history = self._entries(check_model(name), alias)
        return self._entry(history[-1]) if history else None

    def aliases(self, name: str) -> dict[str, AliasEntry]:
        """Each alias of *name*, and where it points."""
        last = {one.path.split("/")[2]: one.path for one in self.storage.list(f"aliases/{check_model(name)}")}
        return {alias: self._entry(path) for alias, path in last.items()}

    def history(self, name: str, alias: str) -> list[AliasEntry]:
        """Every move of *alias*, the first one first."""
        return [self._entry(path) for path in self._entries(check_model(name), alias)]

    def entry(self, name: str, alias: str, number: int) -> AliasEntry:
        """The *number*-th move of *alias*; RegistryError if there is none."""
        return self._entry(_alias_path(check_model(name), alias, number))

    def promote(
        self, name: str, which: str, alias: str, *, expect: str | None = None, share: float = 1.0
    ) -> AliasEntry:
        """Let *alias* point to a version, see `resolve`; where it points there already, nothing happens.

        Args:
            name: the model.
            which: the version.
            alias: such as `prod`.
            expect: the version that it must point to before, an empty text for none yet; None for any.
            share: of the devices that follow the alias, more than 0 and at most 1; the others stay with the version
                before. The same version may be given a larger share later.

        Raises:
            AliasMoved: another one moved it meanwhile, or it does not point to what is expected.
            NoSuchVersion: there is no such version, or none before with which the other devices could stay.
        """
        if _is_digest(check_model(alias)):
            raise ConfigError(f"{alias!r} looks like a version: choose another alias")
        current = self.alias(name, alias)
        if expect is not None:
            self._expect(name, current, alias, expect)
        digest = self.resolve(name, which).digest
        if current is not None and (current.version, current.share) == (digest, share):
            return current
        number = previous = current.number if current else 0
        if current is not None and (current.version == digest or current.share < 1.0):
            previous = current.previous  # what all devices had last
        if share < 1.0 and not previous:
            raise NoSuchVersion(f"`{alias}` of `{name}` has no version before: give its first one to all devices")
        return self._move(
            name, AliasEntry(alias=alias, number=number + 1, version=digest, previous=previous, share=share)
        )

    def rollback(self, name: str, alias: str) -> AliasEntry:
        """Let *alias* point to where it pointed before; again and again, to ever earlier versions.

        Raises:
            AliasMoved: another one moved it meanwhile.
            NoSuchVersion: there is no such alias, or nothing before.
        """
        current = self.alias(name, alias)
        if current is None:
            raise NoSuchVersion(f"`{name}` has no alias `{alias}`: `hybrid-llm models promote` makes one")
        if not current.previous:
            raise NoSuchVersion(f"`{alias}` of `{name}` has pointed to no version before {current.version[:SHORT]}")
        earlier = self._entry(_alias_path(name, alias, current.previous))
        return self._move(name, replace(earlier, number=current.number + 1))

    def manifest_path(self, name: str, digest: str) -> str:
        """Where the manifest of a version is."""
        return f"models/{name}/{digest}/{_MANIFEST}"

    def blob_path(self, digest: str) -> str:
        """Where the piece with this digest is."""
        name = self.sealing.name(digest)
        return f"blobs/sha256/{name[:2]}/{name}"

    def _move(self, name: str, entry: AliasEntry) -> AliasEntry:
        """Create the entry under a lease of its version, so that no garbage collection removes it meanwhile."""
        token, now = secrets.token_hex(8), datetime.now(UTC).isoformat(timespec="seconds")
        entry = replace(entry, moved=now, token=token)
        path = _alias_path(name, entry.alias, entry.number)
        manifest = self.manifest_path(name, entry.version)
        with leased(self.storage, [manifest]) as lease:
            if self.storage.stat(manifest) is None:
                raise NoSuchVersion(f"{self.url} has no version {entry.version[:SHORT]} of `{name}` any more")
            lease.require()
            if not self.storage.create(path, entry.encode()) and self._entry(path).token != token:
                text = f"`{entry.alias}` of `{name}` was moved by another one at the same time; nothing was changed"
                raise AliasMoved(f"{text}: look where it points, and try again", url=self.url, alias=entry.alias)
        return entry

    def _expect(self, name: str, current: AliasEntry | None, alias: str, expect: str) -> None:
        found = current.version if current else ""
        if found != expect and not (expect and found.startswith(expect)):
            text = f"`{alias}` of `{name}` points to {found[:SHORT] or 'nothing'}, not to {expect[:SHORT] or 'nothing'}"
            raise AliasMoved(f"{text}; nothing was changed", url=self.url, alias=alias)

    def _versions(self, folder: str) -> Iterator[tuple[str, str, Stored]]:
        """Name, digest and manifest of every version under *folder*."""
        for stored in self.storage.list(folder):
            match stored.path.split("/"):
                case ["models", name, digest, "manifest.json"]:
                    yield name, digest, stored

    def _entries(self, name: str, alias: str) -> list[str]:
        """The paths of the entries of an alias, in their order."""
        return [stored.path for stored in self.storage.list(f"aliases/{name}/{check_model(alias)}")]

    def _entry(self, path: str) -> AliasEntry:
        data = self._read(path)
        try:
            if data is None:
                raise ValueError("it is gone")
            return AliasEntry.decode(data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RegistryError(f"{self.url}/{path} is not an entry of an alias: {error}", url=self.url) from None

    def _read(self, path: str) -> bytes | None:
        """A small object; RegistryError if it is a large one."""
        data = self.storage.read(path, 0, MOST_BYTES + 1)
        if data is not None and len(data) > MOST_BYTES:
            raise RegistryError(
                f"{self.url}/{path} is larger than {MOST_BYTES >> 20} MB: it was changed there", url=self.url
            )
        return data

    def _no_version(self, name: str, which: str, versions: tuple[tuple[str, float], ...], *, several: bool) -> str:
        if several:
            return f"several versions of `{name}` begin with {which!r}: give more digits"
        newest = ", ".join(digest[:SHORT] for digest, _ in versions[:3])
        aliases = ", ".join(self.aliases(name)) or "none"
        if len(which) < _LEAST_DIGITS:
            listed = f"give one of its aliases ({aliases}), or {_LEAST_DIGITS} digits of a version ({newest})"
            return f"{which!r} is no alias of `{name}`, and too short for a version: {listed}"
        return f"`{name}` has no alias or version {which!r}; aliases: {aliases}; the newest versions: {newest}"


def _alias_path(name: str, alias: str, number: int) -> str:
    return f"aliases/{name}/{alias}/{number:010}.json"


def _is_digest(alias: str) -> bool:
    return len(alias) >= _LEAST_DIGITS and not alias.strip("0123456789abcdef")


def _check_root(data: bytes, check: str, url: str) -> None:
    try:
        root = parse_json(data)
        form, key_check = root["format"], root["key_check"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{url}/{_ROOT} is damaged") from None
    if form != FORMAT:
        raise ConfigError(f"{url} has format {form}; this release reads {FORMAT}: update hybrid-llm")
    if key_check == check:
        return
    if not key_check:
        raise ConfigError(f"{url} is not encrypted: leave the key file out")
    if not check:
        raise ConfigError(f"{url} is encrypted: name the file of its key")
    raise DecryptionFailed(f"the key is not that of {url}")
