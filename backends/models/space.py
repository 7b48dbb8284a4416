"""Whether the disk has room, asked before the bytes arrive, and the errors of a disk that is full or read-only."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hybrid_llm.core.environment import MODELS
from hybrid_llm.core.errors import ConfigError, HybridLLMError

_RESERVE: Final = 16 << 20
"""Bytes that stay free for others."""
ELSEWHERE: Final = f"or set {MODELS} to a folder on another disk"
"""How to write the store of models to another disk."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNUSABLE: Final = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
)


class NoSpace(HybridLLMError):
    """The disk has no room. *needed* and *free* are bytes; 0 where they are not known."""

    def __init__(self, message: str, *, needed: int = 0, free: int = 0) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free


def require_space(folder: Path, needed: int, what: str, elsewhere: str = ELSEWHERE) -> None:
    """Check that *folder* has room for *needed* bytes; *what* names the work in the message, *elsewhere* another disk.

    Raises:
        NoSpace: it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed + _RESERVE > free:
        has = f"{what} needs {megabytes(needed + _RESERVE)} in {folder}, which has {megabytes(free)}"
        raise NoSpace(f"{has}: free some space, {elsewhere}", needed=needed, free=free)


@contextmanager
def disk_errors(folder: Path, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Turn the errors of a disk that is full or cannot be written to into ones that say what to do.

    *elsewhere* is how to write to another disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"{folder}: {error.strerror}: free some space, {elsewhere}") from None
        if error.errno in _UNUSABLE:
            message = f"{error.filename or folder} cannot be written ({error.strerror}): mend that, {elsewhere}"
            raise ConfigError(message, path=str(folder)) from None
        raise


def megabytes(count: int) -> str:
    """*count* bytes for people."""
    return f"{count / 1e6:,.1f} MB"
