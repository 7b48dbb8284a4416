"""Files that are replaced in one step: whoever reads one finds the old content or the new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
