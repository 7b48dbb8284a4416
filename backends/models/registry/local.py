"""A registry in a folder of this machine or of a shared disk: `file:///FOLDER`."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.registry.errors import RegistryError
from hybrid_llm.backends.models.registry.storage import Stored, check_path
from hybrid_llm.backends.models.space import NoSpace

_UNFINISHED: Final = ".unfinished-"
"""How the names of files begin that are being written."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class LocalStorage:
    """The objects are files. A new one gets its name by a hard link, which fails if the name is taken."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        """The folder as a URL."""
        return self._root.as_uri()

    def create(self, path: str, data: bytes) -> bool:
        """Write and sync a file beside, then link it; see `Storage`."""
        target = self._at(path)
        if target.exists():
            return False
        new = target.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")
        with self._errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with new.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                return _link(new, target)
            finally:
                with suppress(OSError):
                    new.unlink()

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes | None:
        """See `Storage`."""
        with self._errors():
            try:
                with self._at(path).open("rb") as file:
                    file.seek(start)
                    return file.read() if end is None else file.read(max(0, end - start))
            except FileNotFoundError:
                return None

    def stat(self, path: str) -> Stored | None:
        """See `Storage`."""
        with self._errors():
            try:
                found = self._at(path).stat()
            except FileNotFoundError:
                return None
        return Stored(path, found.st_size, found.st_mtime)

    def list(self, folder: str) -> list[Stored]:
        """See `Storage`."""
        found = []
        with self._errors():
            for path in self._at(folder).rglob("*"):
                if not path.name.startswith(_UNFINISHED) and path.is_file():
                    with suppress(FileNotFoundError):  # it was deleted meanwhile
                        stat = path.stat()
                        name = path.relative_to(self._root).as_posix()
                        found.append(Stored(name, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda stored: stored.path)

    def delete(self, path: str) -> None:
        """See `Storage`."""
        with self._errors():
            self._at(path).unlink(missing_ok=True)

    def _at(self, path: str) -> Path:
        return self._root / check_path(path)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace(f"{self.url}: {error.strerror}: free some space there") from None
            raise RegistryError(f"{self.url} cannot be used: {error.strerror}", url=self.url) from None


def _link(new: Path, target: Path) -> bool:
    """Give *new* the name *target*; False if it is taken."""
    try:
        os.link(new, target)
    except FileExistsError:
        return False
    return True
