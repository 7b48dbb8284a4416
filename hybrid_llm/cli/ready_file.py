"""The file that says that a server is ready, and at which port."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hybrid_llm.core.errors import ConfigError


@contextlib.contextmanager
def ready_file(path: Path | None) -> Iterator[Callable[[int], None]]:
    """Yields a function that writes the port to *path* atomically; the file is removed before start and at the end."""
    if path is None:
        yield lambda _port: None
        return
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--ready-file: {path.parent} is not a folder", path=str(path))
    path.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def announce(port: int) -> None:
        temporary.write_text(f"{port}\n", encoding="ascii")
        temporary.replace(path)

    try:
        yield announce
    finally:
        path.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
