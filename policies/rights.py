"""Loads rights files as strictly as policies, and watches them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.rights.grants import RIGHTS, Rights, digest_of
from hybrid_llm.core.rights.keys import read_key_file
from hybrid_llm.core.rights.tokens import require_jwt
from hybrid_llm.policies.reader.fields import parse_document, read_text
from hybrid_llm.policies.reader.schemas import Json, json_schema
from hybrid_llm.policies.watch import WatchedFile

WHAT = "the rights file"


def load_rights(path: Path) -> Rights:
    """The rights in the file at *path*; the paths in it are relative to its folder.

    Raises:
        PolicyError: the file, or that of the keys of tokens, cannot be read or is not valid; `.errors` has everything
            that is wrong, with positions.
    """
    rights = parse_rights(read_text(path, WHAT, PolicyError), path)
    if rights.tokens is not None and isinstance(rights.tokens.keys, Path):
        try:
            read_key_file(rights.tokens.keys, rights.tokens.algorithm)
        except ConfigError as error:
            raise PolicyError(f"{path}: {error}", path=str(path)) from None
    return rights


def parse_rights(text: str, path: Path = Path("rights.yaml")) -> Rights:
    """The rights in *text*; *path* names it in errors. Raises as `load_rights`."""
    rights: Rights = parse_document(text, str(path), WHAT, RIGHTS, path.parent)
    return replace(rights, digest=digest_of(text))


def rights_schema() -> Json:
    """A JSON Schema of rights files, for editors."""
    return json_schema(RIGHTS, "A rights file of hybrid-llm", "hybrid-llm rights schema")


class RightsFile(WatchedFile[Rights]):
    """A rights file that is watched: a broken one is refused, and the last good one stays in effect.

    Arguments are those of `WatchedFile`.
    """

    def __init__(
        self,
        path: Path,
        interval: float = 0.25,
        on_reload: Callable[[Rights], None] | None = None,
        on_error: Callable[[PolicyError], None] | None = None,
    ) -> None:
        super().__init__(path, "rights", interval, on_reload, on_error)

    def _load(self) -> Rights:
        return load_rights(self._path)

    def _digest(self, content: Rights) -> str:
        return content.digest


def open_rights(path: Path, extra: str) -> RightsFile:
    """The rights file at *path*, not watched yet; *extra* is what brings the library for tokens.

    Raises:
        PolicyError: the file is not valid.
        ConfigError: it accepts tokens, and the library for them is missing.
    """
    source = RightsFile(path)
    if source.current.tokens is not None:
        require_jwt(extra)
    return source
