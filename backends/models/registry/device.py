"""Versions of a model on a device: pulled beside the one in use, chosen in one step, the one before kept.

In the folder of the store `.versions/NAME/VERSION/` has `model` and `origin.json`, and `NAME` is a link to the version
in use. Whoever opened the folder of another version goes on with it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hybrid_llm.backends.edge.folder import MANIFEST_NAME, digest_file, read_manifest
from hybrid_llm.backends.edge.store import ModelStore, check_name
from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.registry.errors import NoSuchVersion
from hybrid_llm.backends.models.registry.pull import Pulled, pull, remove_unfinished
from hybrid_llm.backends.models.registry.registry import ModelRegistry, Version
from hybrid_llm.backends.models.sources.source import Report
from hybrid_llm.backends.models.space import ELSEWHERE, disk_errors
from hybrid_llm.backends.models.store import VERSIONS, generates, use
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.core.errors import ConfigError

_MODEL: Final = "model"
_ORIGIN: Final = "origin.json"
_KEEP: Final = 2
"""Versions that stay on the device: the one in use, and the one before."""


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """The model *name* in *store*, as one that comes from a registry."""

    store: ModelStore
    name: str

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def current(self) -> str:
        """The short digest of the version in use; empty if there is none from a registry."""
        entry = self.store.root / self.name
        return Path(os.readlink(entry)).name if entry.is_symlink() else ""

    @property
    def versions(self) -> tuple[str, ...]:
        """The short digests of the versions that are whole on this device; the one used last comes last."""
        found = sorted(self._root.glob(f"*/{_ORIGIN}"), key=lambda path: path.stat().st_mtime)
        return tuple(path.parent.name for path in found)

    def folder(self, short: str) -> Path:
        """The model folder of a version on this device.

        Raises:
            NoSuchVersion: it is not here.
        """
        if short not in self.versions:
            raise NoSuchVersion(f"version {short} of `{self.name}` is not on this device: pull it first")
        return self._root / short / _MODEL

    def pull(
        self,
        registry: ModelRegistry,
        version: Version,
        *,
        trust: Trust | None = None,
        report: Report = lambda step, share: None,  # noqa: ARG005
        waiting: Callable[[], None] = lambda: None,
    ) -> Pulled:
        """Fetch *version* beside the one in use, which stays in use. Errors are those of `pull`.

        Raises:
            ConfigError: another kind of model has the name, or the version is no model of a device.
        """
        self._check_free()
        if MANIFEST_NAME not in version.manifest.files:
            text = f"{version} is of the kind {version.manifest.about.kind}, which a device does not run"
            raise ConfigError(f"{text}: pull it into a folder with --into")
        with disk_errors(self.store.root):
            (self.store.root / ".locks").mkdir(parents=True, exist_ok=True)
            with locked(self.store.root / ".locks", self.name, waiting):
                folder = self._root / version.short / _MODEL
                have = [self._root / short / _MODEL for short in self.versions]
                done = pull(registry, version, folder, trust=trust, have=have, elsewhere=ELSEWHERE, report=report)
                read_manifest(folder)
                self._record(registry, version)
        return done

    def activate(self, short: str, *, before: str = "") -> None:
        """Let the name mean this version from now on, in one step. Others are deleted but the one in use *before*.

        The first generator of a store becomes its default; an encoder writes no text.

        Args:
            short: the version.
            before: the other version that stays; by default the one in use.

        Raises:
            NoSuchVersion: it is not on this device.
            ConfigError: another kind of model has the name, or the system allows no links.
        """
        self._check_free()
        target = self.folder(short).parent
        with disk_errors(self.store.root), locked(self.store.root / ".locks", self.name, lambda: None):
            for path in (*([self.folder(before).parent] if before in self.versions else []), target):
                os.utime(path / _ORIGIN)  # the order of use
            new = self._root / ".link"
            new.unlink(missing_ok=True)
            try:
                new.symlink_to(Path(VERSIONS) / self.name / short, target_is_directory=True)
            except OSError as error:
                raise ConfigError(f"this system allows no links ({error.strerror}): pull with --into") from None
            new.replace(self.store.root / self.name)
            self._prune()
        if not self.store.default and generates(self.folder(short)):
            use(self.store, self.name)

    @property
    def _root(self) -> Path:
        return self.store.root / VERSIONS / self.name

    def _check_free(self) -> None:
        entry = self.store.root / self.name
        if entry.exists() and not entry.is_symlink():
            raise ConfigError(
                f"`{self.name}` is there already, from {self.store.origin(self.name).get('source')}: choose another "
                f"name with --as, or remove it first with `hybrid-llm models remove {self.name}`"
            )

    def _record(self, registry: ModelRegistry, version: Version) -> None:
        folder = self._root / version.short
        origin = {
            "name": self.name,
            "source": f"{registry.url} {version.name}",
            "sha256": version.digest,
            "revision": version.short,
            "license": version.manifest.about.licence,
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
            "manifest_sha256": digest_file(folder / _MODEL / MANIFEST_NAME).sha256,
        }
        if not (folder / _ORIGIN).is_file():
            new = folder / f"{_ORIGIN}.new"
            new.write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
            new.replace(folder / _ORIGIN)

    def _prune(self) -> None:
        """Delete all but the versions used last, and what has arrived of others."""
        for short in self.versions[:-_KEEP]:
            (self._root / short / _ORIGIN).unlink()
            shutil.rmtree(self._root / short, ignore_errors=True)
        kept = self.versions
        for path in self._root.iterdir():
            if path.is_dir() and not path.is_symlink() and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and not path.is_symlink():
                remove_unfinished(path / _MODEL)
