"""Content hashes: of files, folders and options. Two runs of a step with equal keys do the same work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.edge.folder import digest_file
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replace_text
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.prepare.step import Input

RECORD_NAME: Final = "step.json"
CARD_NAME: Final = "card.json"
PAGE_NAME: Final = "README.md"
ABOUT: Final = frozenset({RECORD_NAME, CARD_NAME, PAGE_NAME})
"""Files about a result, which are no part of it: they have times, and what was found out later."""


def digest_files(folder: Path) -> dict[str, str]:
    """Each file of *folder* with its SHA-256, by its path from there; those about the result are left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: digest_file(path).sha256 for name, path in names.items() if name not in ABOUT}


def digest_of(files: Mapping[str, str]) -> str:
    """One hash for the names and hashes of *files*."""
    return hashlib.sha256("\n".join(f"{name} {sha256}" for name, sha256 in sorted(files.items())).encode()).hexdigest()


def digest_path(path: Path) -> str:
    """The hash of a file, or of all files in a folder.

    Raises:
        ConfigError: there is nothing, or it cannot be read.
    """
    try:
        return digest_of(digest_files(path)) if path.is_dir() else digest_file(path).sha256
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None


def digest_options(options: Mapping[str, Any], input_digest: Callable[[Input], str]) -> Any:
    """*options* as JSON in which inputs and files stand by their hashes, so that it says what a step will do."""

    def plain(value: object) -> Any:
        if isinstance(value, Input):
            return {"sha256": input_digest(value)}
        if isinstance(value, Path):
            return {"sha256": digest_path(value)} if value.exists() else {"path": value.name}
        if isinstance(value, Mapping):
            return {str(name): plain(item) for name, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if is_dataclass(value) and not isinstance(value, type):
            return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
        return jsonable(value)

    return plain(options)


def key_of(**parts: object) -> str:
    """The hash of what determines a step's result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace *path* in one step, unless it has that text already."""
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    replace_text(path, text)
