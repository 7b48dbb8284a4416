"""Files that are replaced in one step, so that nobody reads a part of one, and the size of folders."""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

_log = logging.getLogger("hybrid_llm.files")
_EVERYBODY: Final = 0o007
_SCHEME: Final = re.compile("([A-Za-z][A-Za-z0-9+.-]+):")
_warned: set[Path] = set()


def scheme_of(text: str) -> str:
    """The scheme that *text* begins with, so that it is no path; empty for a path. One letter is a drive of Windows."""
    match = _SCHEME.match(text)
    return match[1] if match else ""


@contextmanager
def replacing(path: Path, *, mode: int = 0o666, sync: bool = False) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of *path* once the block ends; if it raises, *path* stays as it is.

    Several may write the same *path* at the same time: the last one counts.

    Args:
        path: The file, in a folder that exists.
        mode: Its permissions, as far as the umask leaves them.
        sync: Whether the content is on the disk before it takes the place.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def replace_text(path: Path, text: str, *, mode: int = 0o666, sync: bool = False) -> None:
    """Let *text*, in UTF-8, be the content of *path*; see `replacing`."""
    with replacing(path, mode=mode, sync=sync) as file:
        file.write(text.encode("utf-8"))


def create_private(path: Path) -> None:
    """Make *path*, empty and for its owner alone, unless it is there; what cannot be made is reported by who opens it.

    The files that SQLite puts beside a database get the mode of the database.
    """
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def warn_of_readers(path: Path, what: str) -> None:
    """Warn, once in this process, where every user of this machine can read or change *path*, which is *what*."""
    with suppress(OSError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & _EVERYBODY and path not in _warned:
            _warned.add(path)
            _log.warning(
                "every user of this machine can use %s, %s (mode %04o): chmod o-rwx %s", path, what, mode, path
            )


Stamp = tuple[int, ...]


def stamp_of(path: Path) -> Stamp | None:
    """What changes when the file does; links are followed, so that a moved link counts. None without a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size


def bytes_of(path: Path) -> int:
    """The size of a file, or of all files in a folder and in those in it.

    Raises:
        OSError: one cannot be read, or vanishes meanwhile.
    """
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
