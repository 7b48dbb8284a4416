"""Finds the files of data in paths, folders, ZIP archives and data folders, and opens them within bounds."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Final, cast

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DATA_NAME, DataFolder

_EXPANSION: Final = 200
"""How many times its own size a compressed file may hold; text is rarely packed tighter than 20-fold."""
_HARMLESS: Final = 64 << 20
"""Bytes that a compressed file may hold whatever its size."""
_BUFFER: Final = 1 << 20
_NOT_DATA: Final = (
    "readme*",
    "license*",
    "licence*",
    "notice*",
    "copying*",
    "*.md",
    ".*",
    "*.py",
    "*.yaml",
    "*.yml",
    "step.json",
)
"""Files of a folder or archive that are read only where a pattern names them."""
_DATASETS: Final = ("dataset_dict.json", "dataset_info.json")
"""What a folder that `datasets` has saved holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of data.

    Attributes:
        name: in messages and figures: its path, for a member of an archive `ARCHIVE!MEMBER`.
        suffix: of the name without a final `.gz`: `.csv`.
        path: the file on the disk, which may be the archive.
        size: bytes, as they are stored.
        open: its content.
    """

    name: str
    suffix: str
    path: Path
    size: int
    open: Callable[[], IO[bytes]]


def find_sources(path: Path, pattern: str = "") -> list[Source]:
    """The files of data in *path*, in the order of their names.

    Args:
        path: A file, a folder, a ZIP archive, a data folder, or a folder that `datasets` has saved.
        pattern: Which names in a folder or an archive are meant, such as `*.jsonl`; by default all but documentation.

    Raises:
        ConfigError: there are none, or the archive cannot be read.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist: correct the path, or name the step that makes it", path=str(path))
    found = list(_sources(path, pattern))
    if not found:
        which = f"no file whose name matches {pattern!r}" if pattern else "no file of data"
        raise ConfigError(f"{path} has {which}: correct `sources` or `files`", path=str(path))
    return found


def _sources(path: Path, pattern: str) -> Iterator[Source]:
    if path.is_file():
        yield from _members(path, pattern) if zipfile.is_zipfile(path) else [_file(path)]
    elif any((path / name).is_file() for name in _DATASETS):
        yield Source(name=str(path), suffix=".datasets", path=path, size=0, open=lambda: _no_file(path))
    elif (path / DATA_NAME).is_file():
        yield from (_file(path / f"{split}.jsonl") for split in DataFolder.open(path).card.splits)
    else:
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            if _is_meant(file.name, pattern):
                yield from [_file(file)] if not zipfile.is_zipfile(file) else _members(file, "")


def _no_file(path: Path) -> IO[bytes]:
    raise ConfigError(f"{path} is read by `datasets`, not as one file", path=str(path))


def _is_meant(name: str, pattern: str) -> bool:
    if pattern:
        return fnmatch(name, pattern)
    return not any(fnmatch(name.lower(), other) for other in _NOT_DATA)


def _file(path: Path) -> Source:
    packed = path.suffix.lower() == ".gz"
    size = path.stat().st_size

    def opened() -> IO[bytes]:
        if packed:
            _measure(path, size)
            return cast("IO[bytes]", _Bounded(cast("IO[bytes]", gzip.open(path)), path.name, size))
        return path.open("rb", buffering=_BUFFER)

    return Source(name=str(path), suffix=_suffix(path.name), path=path, size=size, open=opened)


def _measure(path: Path, size: int) -> None:
    """Unpack a gzip file up to the bound before work is done on what it holds: it states no length to rely on."""
    with _Bounded(cast("IO[bytes]", gzip.open(path)), path.name, size) as stream:
        while stream.read(_BUFFER):
            pass


def _suffix(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _members(path: Path, pattern: str) -> Iterator[Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.filename)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is no readable ZIP archive ({error}): fetch it again", path=str(path)) from error
    meant = [info for info in infos if not info.is_dir() and _is_meant(Path(info.filename).name, pattern)]
    check_expansion(str(path), sum(info.file_size for info in meant), sum(info.compress_size for info in meant))
    shared = _Archive(path)
    for info in meant:
        yield _member(path, info, shared)


class _Archive:
    """An archive whose list of members is read once, and not for each of them; its members are read one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip: zipfile.ZipFile | None = None

    def open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        """A member. ConfigError if it is packed in a form that Python cannot unpack."""
        self._zip = self._zip or zipfile.ZipFile(self._path)
        try:
            return self._zip.open(info)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            message = f"{self._path}!{info.filename} cannot be unpacked ({error}): pack it again, or name its folder"
            raise ConfigError(message, path=str(self._path)) from error


def _member(path: Path, info: zipfile.ZipInfo, archive: _Archive) -> Source:
    name = f"{path}!{info.filename}"
    if info.flag_bits & 1:
        raise ConfigError(f"{name} is encrypted: unpack the archive, and name the folder", path=str(path))
    check_expansion(name, info.file_size, info.compress_size)

    def opened() -> IO[bytes]:
        return cast("IO[bytes]", _Bounded(archive.open(info), name, info.compress_size))

    suffix = _suffix(info.filename)
    return Source(name=name, suffix=suffix, path=path, size=info.file_size, open=opened)


def check_expansion(name: str, size: int, packed: int) -> None:
    """Refuse what holds *size* bytes in *packed* ones, as archives do that are made to fill a disk; ConfigError."""
    if size > max(_HARMLESS, _EXPANSION * packed):
        raise ConfigError(
            f"{name} unpacks to more than {_EXPANSION} times its size, as archives do that are made to fill a disk: "
            "if you trust it, unpack it yourself, and name the unpacked file",
            path=name,
        )


class _Bounded:
    """A stream that is unpacked while it is read, which ends with an error once it holds far more than its size."""

    def __init__(self, stream: IO[bytes], name: str, packed: int) -> None:
        self._stream, self._name, self._packed, self._read = stream, name, packed, 0

    def _counted(self, data: bytes) -> bytes:
        self._read += len(data)
        check_expansion(self._name, self._read, self._packed)
        return data

    def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes."""
        return self._counted(self._guarded(self._stream.read, size))

    def readline(self, size: int = -1) -> bytes:
        """One line, or *size* bytes of it."""
        return self._counted(self._guarded(self._stream.readline, size))

    def peek(self, size: int) -> bytes:
        """Some of the bytes that come next, which stay; at least one, except at the end."""
        return self._guarded(self._stream.peek, size)  # type: ignore[attr-defined]

    def _guarded(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise ConfigError(f"{self._name} is damaged ({error}): fetch it again", path=self._name) from error

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
