"""A plain folder in object storage: the list of its files with their SHA-256, and its download by that list.

The list is `model.sig` (see `hybrid_llm.backends.signing`), or `SHA256SUMS` as `sha256sum` of GNU coreutils writes it.
Nothing that it does not name is fetched, and a file of another digest is never used.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.cache.entries import ELSEWHERE
from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.registry.errors import RegistryError
from hybrid_llm.backends.models.registry.pull import in_threads
from hybrid_llm.backends.models.registry.records import MOST_BYTES, check_file
from hybrid_llm.backends.models.registry.storage import Storage
from hybrid_llm.backends.models.sources.resuming import Body, Broken, Refused, Version, download
from hybrid_llm.backends.models.sources.source import Report, Reporter
from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.backends.signing.statement import SIGNATURE
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.signing.verify import read_signature, verify_any
from hybrid_llm.core.errors import ConfigError, SecurityError
from hybrid_llm.core.files import replacing

SUMS: Final = "SHA256SUMS"
_LINE: Final = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](\./)?(?P<name>.+)")
_RANGE: Final = 8 << 20
"""Bytes of one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a folder holds: relative path -> SHA-256, and -> size in bytes; and the signature of it, if it has one."""

    files: Mapping[str, str]
    sizes: Mapping[str, int]
    signature: bytes | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of the list, which stands for the content."""
        lines = (f"{name} {self.files[name]}" for name in sorted(self.files))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(self.sizes.values())


def read_list(storage: Storage, trust: Trust | None) -> Listed:
    """The list of the folder in *storage*; its signature is checked if *trust* is given, else it is a list only.

    Raises:
        UntrustedModel: no signature is accepted.
        ConfigError: there is no model, no list, or it is damaged or names files that are not there.
        RegistryError: the storage cannot be used.
    """
    signature = _small(storage, SIGNATURE)
    if trust is not None:
        signed = {} if signature is None else _signed(signature, storage.url)
        verify_any([] if signature is None else [signature], signed, trust, storage.url)
        return _sized(storage, signed, signature)
    sums = _small(storage, SUMS)
    if sums is None and signature is None:
        raise _nothing(storage)
    files = _signed(signature or b"", storage.url) if sums is None else _summed(sums, storage.url)
    return _sized(storage, files, signature if sums is None else None)


def bring(storage: Storage, listed: Listed, folder: Path, *, report: Report, waiting: Callable[[], None]) -> None:
    """Fetch what is listed into *folder*, which is there once it is whole; a file that does not fit is fetched again.

    After a kill or a cut the next call goes on in `.NAME.part` beside it. Two at once: one waits for the other.

    Raises:
        SecurityError: the storage holds another file than the listed one.
        RegistryError, NoSpace, ConfigError: it cannot be fetched or written.
    """
    with disk_errors(folder.parent, ELSEWHERE), locked(folder.parent, f".{folder.name}", waiting):
        part = folder.with_name(f".{folder.name}.part")
        if folder.exists():
            shutil.rmtree(part, ignore_errors=True)
            folder.replace(part)  # checked below; what fits stays
        part.mkdir(exist_ok=True)
        _remove_unlisted(part, listed)
        done = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        progress = Reporter(report, "fetching", max(listed.total_bytes, done), done)
        in_threads(partial(_bring_file, storage, listed, part, progress), sorted(listed.files))
        if listed.signature is not None:
            with replacing(part / SIGNATURE, sync=True) as file:
                file.write(listed.signature)
        part.replace(folder)


def _bring_file(storage: Storage, listed: Listed, part: Path, progress: Reporter, name: str) -> int:
    path, expected = part / name, listed.files[name]
    if path.is_file() and _sha256(path) != expected:
        path.unlink()
    if path.is_file():
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    version = Version(tag=expected, size=listed.sizes[name])
    try:
        download(path, partial(_open, storage, name, version, progress), lambda step, share: None)  # noqa: ARG005
    except Broken as error:
        retryable = not isinstance(error, Refused)
        raise RegistryError(f"{name} was not fetched: {error}", url=storage.url, retryable=retryable) from None
    if (found := _sha256(path)) != expected:
        path.unlink()
        raise SecurityError(f"{storage.url}/{name} has the SHA-256 {found}, {expected} is listed: it is another file")
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return version.size


def _open(storage: Storage, name: str, version: Version, progress: Reporter, start: int, known: Version | None) -> Body:
    """The content of a file from *start*, in requests of `_RANGE` bytes."""
    at, buffer = (start if version == known else 0), b""
    first = at

    def read(count: int) -> bytes:
        nonlocal at, buffer
        if not buffer and at < version.size:
            buffer = _range(storage, name, at, min(version.size, at + _RANGE))
            at += len(buffer)
        block, buffer = buffer[:count], buffer[count:]
        progress.add(len(block))
        return block

    return Body(version=version, start=first, read=read, close=lambda: None)


def _range(storage: Storage, name: str, start: int, end: int) -> bytes:
    try:
        data = storage.read(name, start, end)
    except RegistryError as error:
        raise (Broken if error.retryable else Refused)(str(error)) from None
    if data is None:
        raise Refused(f"{storage.url} has no {name} any more")
    return data


def _remove_unlisted(part: Path, listed: Listed) -> None:
    """Delete what is neither listed nor the beginning of what is."""
    expected = {f"{name}{end}" for name in listed.files for end in ("", ".part", ".part.json")}
    for path in part.rglob("*"):
        if path.is_file() and path.relative_to(part).as_posix() not in expected:
            path.unlink()


def _small(storage: Storage, name: str) -> bytes | None:
    data = storage.read(name, 0, MOST_BYTES + 1)
    if data is not None and len(data) > MOST_BYTES:
        raise ConfigError(f"{storage.url}/{name} is larger than {MOST_BYTES >> 20} MB: it is no list of files")
    return data


def _signed(signature: bytes, url: str) -> dict[str, str]:
    try:
        return {check_file(name): sha256 for name, sha256 in read_signature(signature).files.items()}
    except ValueError as error:
        raise ConfigError(f"{url}/{SIGNATURE} cannot be read ({error}): sign and upload the model again") from None


def _summed(data: bytes, url: str) -> dict[str, str]:
    """The lines of `SHA256SUMS`; it does not list itself."""
    files = {}
    try:
        for line in filter(None, data.decode("utf-8").splitlines()):
            match = _LINE.fullmatch(line)
            if match is None:
                raise ValueError("a line is not `SHA-256  NAME`")
            files[check_file(match["name"])] = match["sha256"]
    except ValueError as error:
        raise ConfigError(f"{url}/{SUMS} cannot be read ({error}): write it by `sha256sum * > {SUMS}`") from None
    for name in (SUMS, SIGNATURE):
        files.pop(name, None)
    if not files:
        raise ConfigError(f"{url}/{SUMS} lists no file: write it by `sha256sum * > {SUMS}`")
    return files


def _sized(storage: Storage, files: Mapping[str, str], signature: bytes | None) -> Listed:
    sizes = {}
    for name in files:
        stored = storage.stat(name)
        if stored is None:
            raise ConfigError(f"{storage.url} has no {name}, which is listed: upload the model again", path=storage.url)
        sizes[name] = stored.bytes
    return Listed(files=files, sizes=sizes, signature=signature)


def _nothing(storage: Storage) -> ConfigError:
    if storage.stat("registry.json") is not None:
        text = f"{storage.url} is a registry: name a model of it by --model NAME@ALIAS --registry {storage.url}"
    elif storage.stat("config.json") is None:
        text = f"there is no model at {storage.url}, no config.json: check the bucket and the folder"
    else:
        how = f"upload {SIGNATURE} (`hybrid-llm models sign`) or {SUMS} (`sha256sum * > {SUMS}`) with it"
        text = f"{storage.url} lists no digests, so that nothing could be verified: {how}, or publish it in a registry"
    return ConfigError(text, path=storage.url)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
