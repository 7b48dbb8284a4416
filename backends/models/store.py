"""Adds, chooses and removes models in the user's store: one process at a time for each name, and nothing half-done.

In the folder of the store, `NAME/model` is a model folder and `NAME/origin.json` says where it came from. `.downloads`
holds what has arrived of unfinished downloads, `.staging` what is being made, `.locks` the locks, `.default` the name
of the default model and `.pins.json` the hashes of first downloads.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.edge.folder import (
    MANIFEST_NAME,
    Manifest,
    digest_file,
    read_layout,
    read_manifest,
    verify_manifest,
)
from hybrid_llm.backends.edge.store import EMBEDDED, ModelStore
from hybrid_llm.backends.models.bring import bring, recommend
from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.sources import Source, Wanted
from hybrid_llm.backends.models.sources.source import FetchFailed, Report
from hybrid_llm.backends.models.space import disk_errors, require_space
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import bytes_of, replace_text
from hybrid_llm.core.jsontext import read_json

VERSIONS: Final = ".versions"
"""The folder with the versions of each model of a registry, see `registry.device`."""
_STALE_S: Final = 7 * 86_400.0
"""Seconds after which an unfinished download is deleted."""
_STORE: Final = "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What to add.

    Attributes:
        name: its name in the store.
        source: where it comes from.
        wanted: what is known of the download.
        license: SPDX identifier or name of the licence.
        copy_of: the source that a file of this machine is a copy of.
        disk_bytes: size of the model on disk, as far as it is known.
        sampling: recommended for its draws, where the model itself recommends nothing.
        hidden_states: whether it gives them, see `import_gguf`.
    """

    name: str
    source: Source
    wanted: Wanted
    copy_of: str = ""
    license: str = "unknown"
    disk_bytes: int = 0
    sampling: Mapping[str, float] = field(default_factory=dict)
    hidden_states: bool = False

    @property
    def origin(self) -> str:
        """The source as it is recorded."""
        return self.copy_of or self.source.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What came of it: whether it was there already, and whether it is the default model now."""

    manifest: Manifest
    folder: Path
    was_there: bool
    is_default: bool


def add(store: ModelStore, addition: Addition, *, report: Report, waiting: Callable[[], None] = lambda: None) -> Added:
    """Fetch, check, import and register a model; the first one becomes the default.

    An interruption at any point leaves nothing that is taken for a model: the next call goes on with the download, and
    clears the rest away. Another process that adds the same model is waited for, and its model is the result.

    Args:
        store: Where to.
        addition: What, and under which name.
        report: Called with the current step and its share.
        waiting: Called once if another process is adding a model of this name.

    Raises:
        ConfigError: the name is taken by another source, the file is no model, or the store cannot be written.
        FetchFailed: the source cannot be reached, or is not there.
        SecurityError: the download is another file than the pinned one.
        NoSpace: the disk has no room.
    """
    entry = store.entry(addition.name)
    was_there = _is_there(store, addition)
    if not was_there:
        with disk_errors(store.root):
            _prepare(store)
            with locked(store.root / ".locks", addition.name, waiting):
                was_there = _is_there(store, addition)  # another process may have added it meanwhile
                if not was_there:
                    _sweep(store, addition.name)
                    _make(store, addition, entry, report)
            if not store.default and generates(store.folder(addition.name)):
                replace_text(store.root / ".default", addition.name)
    folder = store.folder(addition.name)
    return Added(
        manifest=read_manifest(folder),
        folder=folder,
        was_there=was_there,
        is_default=store.default == addition.name,
    )


def generates(folder: Path) -> bool:
    """Whether the model in *folder* can be the default, which answers prompts."""
    return (folder / "genai_config.json").is_file()


def use(store: ModelStore, name: str) -> None:
    """Make *name* the default model; `embedded` for the one of the package.

    Raises:
        ConfigError: there is no such model, or it generates nothing.
    """
    folder = store.folder(name)
    if not generates(folder):
        kind = read_manifest(folder).kind
        message = f"`{name}` classifies, and answers no prompts: name it in hybrid.yaml as a backend of `kind: {kind}`"
        raise ConfigError(message, path=str(folder))
    with disk_errors(store.root):
        _prepare(store)
        replace_text(store.root / ".default", name)


def remove(store: ModelStore, name: str, *, force: bool = False) -> int:
    """Delete a model, and return how many bytes that freed.

    Raises:
        ConfigError: there is no such model, it is the one of the package, or it is the default and *force* is not set.
    """
    if name == EMBEDDED:  # its folder is in the installation, beside the library's own code
        raise ConfigError(
            "the embedded model is a part of hybrid-llm and stays: `hybrid-llm models list` shows the others"
        )
    folder = store.folder(name)
    if store.default == name and not force:
        raise ConfigError(
            f"`{name}` is the default model: choose another with `hybrid-llm models use NAME`, or pass --force"
        )
    freed = bytes_of(folder.parent)
    with disk_errors(store.root), locked(store.root / ".locks", name, lambda: None):
        going = store.root / ".staging" / name
        shutil.rmtree(going, ignore_errors=True)
        versions = store.root / VERSIONS / name  # of a registry, where the name is a link
        if versions.is_dir():
            freed = bytes_of(versions)
            folder.parent.unlink()
            versions.replace(going)
        else:
            folder.parent.replace(going)  # in one step: nobody reads a model that is half deleted
        if store.default == name:
            (store.root / ".default").unlink()
        shutil.rmtree(going)
    return freed


def verify(store: ModelStore, name: str) -> Manifest:
    """Check every file of a model against its manifest, and the manifest against what was added.

    Raises:
        ConfigError: a file is missing, damaged or not listed; the message says what to do.
    """
    folder = store.folder(name)
    manifest = verify_manifest(folder)
    if name == EMBEDDED:
        return manifest
    if store.origin(name).get("manifest_sha256") != digest_file(folder / MANIFEST_NAME).sha256:
        raise ConfigError(f"{folder / MANIFEST_NAME} is modified: remove the model and add it again", path=str(folder))
    return manifest


def _prepare(store: ModelStore) -> None:
    for name in (".locks", ".staging", ".downloads"):
        (store.root / name).mkdir(parents=True, exist_ok=True)
    probe = store.root / ".locks" / f"{_STORE}.lock"
    probe.touch()  # a store that cannot be written is found out before the download


def _is_there(store: ModelStore, addition: Addition) -> bool:
    """Whether the model is there; ConfigError if another one has its name."""
    if addition.name not in store.names():
        return False
    origin = store.origin(addition.name)
    expected = addition.wanted.sha256
    if origin.get("source") == addition.origin or (expected and origin.get("sha256") == expected):
        if addition.hidden_states:
            _require_hidden_states(store.folder(addition.name), addition.name)
        return True
    raise ConfigError(
        f"`{addition.name}` is there already, from {origin.get('source')}: choose another name with --name, or "
        f"remove it first with `hybrid-llm models remove {addition.name}`"
    )


def _require_hidden_states(folder: Path, name: str) -> None:
    if read_layout(folder, read_manifest(folder)).hidden_states is None:
        raise ConfigError(
            f"`{name}` is there already, without hidden states: choose another name with --name, or remove it first "
            f"with `hybrid-llm models remove {name}`"
        )


def _sweep(store: ModelStore, name: str) -> None:
    """Delete what processes that were killed left behind; the lock of *name* is held."""
    shutil.rmtree(store.root / ".staging" / name, ignore_errors=True)
    locks = store.root / ".locks"
    for left in (store.root / ".staging").iterdir():
        with locked(locks, left.name) as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)
    for left in (store.root / ".downloads").iterdir():
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)


def _make(store: ModelStore, addition: Addition, entry: Path, report: Report) -> None:
    """Fetch and import into a folder of its own, then move that into place in one step."""
    wanted, pin = addition.wanted, _pins(store).get(addition.origin, {})
    wanted = replace(
        wanted, sha256=wanted.sha256 or pin.get("sha256", ""), revision=wanted.revision or pin.get("revision", "")
    )
    # A download is there twice while it is unpacked, or while pip moves it.
    require_space(store.root, 2 * wanted.size + addition.disk_bytes, f"adding `{addition.name}`")
    with _downloads(store, addition.source) as downloads, _staging(store, addition.name) as staged:
        fetched = addition.source.fetch(downloads, wanted, report)
        manifest = bring(
            fetched.path,
            staged / "model",
            addition.name,
            addition.license,
            report,
            hidden_states=addition.hidden_states,
        )
        manifest = recommend(staged / "model", manifest, addition.sampling)
        origin = {
            "name": addition.name,
            "source": addition.origin,
            "sha256": fetched.sha256,
            "revision": fetched.revision,
            "license": addition.license if addition.license != "unknown" else manifest.license,
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
            "manifest_sha256": digest_file(staged / "model" / MANIFEST_NAME).sha256,
        }
        replace_text(staged / "origin.json", json.dumps(origin, indent=2) + "\n")
        staged.replace(entry)
    if addition.source.remote or addition.copy_of:
        _pin(store, addition.origin, {"sha256": fetched.sha256, "revision": fetched.revision})


@contextmanager
def _downloads(store: ModelStore, source: Source) -> Iterator[Path]:
    """The folder for the bytes of *source*: it stays after an interruption, and goes once the model is there."""
    key = hashlib.sha256(source.text.encode()).hexdigest()[:16]
    folder = store.root / ".downloads" / key
    with locked(store.root / ".locks", f"download-{key}", lambda: None):
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        except FetchFailed:
            raise  # the next call goes on there, as after Ctrl-C
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)  # going on with these bytes would end in the same way
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _staging(store: ModelStore, name: str) -> Iterator[Path]:
    folder = store.root / ".staging" / name
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pins(store: ModelStore) -> dict[str, dict[str, str]]:
    """Source -> hash and revision of its first download; a damaged file is an error, or trust would start anew."""
    path = store.root / ".pins.json"
    if not path.is_file():
        return {}
    try:
        pins: Any = read_json(path)
        return {str(source): {key: str(value) for key, value in pin.items()} for source, pin in pins.items()}
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}): restore it, or delete it to trust anew", path=str(path)
        ) from None


def _pin(store: ModelStore, source: str, pin: Mapping[str, str]) -> None:
    with locked(store.root / ".locks", _STORE, lambda: None):
        replace_text(store.root / ".pins.json", json.dumps({**_pins(store), source: dict(pin)}, indent=2) + "\n")
