"""Content hashes: of files, folders and options. Two runs of a step with equal keys do the same work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.adapters import BASE_KEY, base_of
from hybrid_llm.backends.edge.folder import digest_file
from hybrid_llm.backends.signing.statement import SIGNATURE
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replace_text
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.prepare.step import Input

RECORD_NAME: Final = "step.json"
CARD_NAME: Final = "card.json"
PAGE_NAME: Final = "README.md"
ABOUT: Final = frozenset({RECORD_NAME, CARD_NAME, PAGE_NAME, SIGNATURE})
"""Files about a result, which are no part of it: they have times, and what was found out later."""


def digest_files(folder: Path, *, whole: bool = False) -> dict[str, str]:
    """Each file of *folder* with its SHA-256, by its path from there; those about the result only if *whole*."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: digest_file(path).sha256 for name, path in names.items() if whole or name not in ABOUT}


def digest_about(folder: Path) -> dict[str, str]:
    """The files about the result in *folder*, each with its SHA-256."""
    return {name: digest_file(folder / name).sha256 for name in sorted(ABOUT) if (folder / name).is_file()}


def digest_of(files: Mapping[str, str]) -> str:
    """One hash for the names and hashes of *files*."""
    return hashlib.sha256("\n".join(f"{name} {sha256}" for name, sha256 in sorted(files.items())).encode()).hexdigest()


def digest_content(files: Mapping[str, str]) -> str:
    """As `digest_of`, of those *files* that are no files about the result."""
    return digest_of({name: sha256 for name, sha256 in files.items() if name not in ABOUT})


def digest_path(path: Path, *, whole: bool = False) -> str:
    """The hash of a file, or of all files in a folder; of those about a result in it only if *whole*.

    That of an adapter covers its base too, where that is a folder here: both together are the model.

    Raises:
        ConfigError: there is nothing, or it cannot be read.
    """
    try:
        if not path.is_dir():
            return digest_file(path).sha256
        base = _base(path)
        with_base = {} if base is None else {BASE_KEY: digest_path(base)}
        return digest_of({**digest_files(path, whole=whole), **with_base})
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None


def _base(folder: Path) -> Path | None:
    """The base of the adapter in *folder*, if it is one of a folder here."""
    try:
        return base_of(folder)
    except ConfigError:  # the step that reads it has another base, or reports this
        return None


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
