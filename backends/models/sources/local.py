"""A model that is on this machine already: a `.gguf`, a wheel that holds one, or a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from hybrid_llm.backends.edge.folder import MANIFEST_NAME
from hybrid_llm.backends.models.sources.source import Fetched, Report, Wanted, check_sha256, digest, digest_folder
from hybrid_llm.core.errors import ConfigError

_NO_MODEL: Final = (
    f"a model folder has {MANIFEST_NAME}, a Hugging Face folder config.json; a .gguf file is added by its own path"
)


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file or a folder, read where it is."""

    path: Path
    remote: ClassVar[bool] = False

    @property
    def text(self) -> str:
        """The whole path."""
        return str(self.path.resolve())

    @property
    def suggestion(self) -> str:
        """The name of the file or folder."""
        return suggested(self.path.stem if self.path.suffix in (".gguf", ".whl") else self.path.name)

    def fetch(self, folder: Path, wanted: Wanted, report: Report) -> Fetched:  # noqa: ARG002  # nothing is copied
        """Check it; it stays where it is. Raises ConfigError if it is not there, SecurityError for another hash."""
        if self.path.is_dir():
            if not any((self.path / name).is_file() for name in (MANIFEST_NAME, "config.json")):
                raise ConfigError(f"{self.path} holds no model: {_NO_MODEL}", path=str(self.path))
            found = digest_folder(self.path, report)
        elif self.path.is_file():
            found = digest(self.path, report)
        else:
            raise ConfigError(f"{self.path}: there is no such file or folder", path=str(self.path))
        check_sha256(found, wanted.sha256, str(self.path))
        return Fetched(path=self.path, sha256=found)


def suggested(text: str) -> str:
    """A name for a model, made of the name of a file, package or repository."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64]
