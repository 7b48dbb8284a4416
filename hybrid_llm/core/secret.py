"""Secrets that a file or a command line names and does not hold: keys of servers, URLs with passwords."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import File, Table, Text, key, table
from hybrid_llm.core.files import warn_of_readers

_NAMED: Final = re.compile("(env|file):(.*)", re.DOTALL)
_USER: Final = re.compile(r"(:/+)([^/@\s:]*:\S*|[^/\s]*)@")
_PASSWORD: Final = re.compile(r"([?&]\w*password=)[^&\s]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Where a secret is found; it is read when it is needed, and never shown."""

    env: str | None = key(Text("the name of a variable"), "The environment variable that holds it.", default=None)
    file: Path | None = key(File(), "The file that holds it.", default=None)

    @classmethod
    def parse(cls, text: str) -> Secret | None:
        """What `env:NAME` or `file:PATH` names, as a command line has it; None for another text.

        Raises:
            ValueError: the name or the path is missing.
        """
        match = _NAMED.fullmatch(text)
        if match is None:
            return None
        kind, where = match.groups()
        if not where.strip():
            raise ValueError(f"{text!r} is neither env:NAME nor file:PATH")
        return cls(env=where) if kind == "env" else cls(file=Path(where))

    @property
    def place(self) -> str:
        """Where it is found, for messages."""
        return f"the environment variable {self.env}" if self.env is not None else str(self.file)

    def read(self, name: str) -> str:
        """The secret, without white space around it.

        Raises:
            ConfigError: there is none, or it is not printable ASCII; with *name* and the place, and nothing of it.
        """
        place = self.place
        try:
            secret = self._text().strip()
        except OSError as error:
            raise ConfigError(f"{name}: {place} cannot be read: {error.strerror}") from None
        except KeyError:
            raise ConfigError(f"{name}: {place} is not set") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{name}: {place} is no text in UTF-8") from None
        if not secret:
            raise ConfigError(f"{name}: {place} is empty")
        if not secret.isascii() or not secret.isprintable():
            raise ConfigError(f"{name}: {place} holds a line break, or another character beyond printable ASCII")
        return secret

    def _text(self) -> str:
        if self.env is not None:
            return os.environ[self.env]
        assert self.file is not None
        warn_of_readers(self.file, "a secret")
        return self.file.read_text(encoding="utf-8")


def secret_table(title: str, about: str) -> Table:
    """The table of a secret in a file, as `{env: NAME}` or `{file: PATH}`."""
    return replace(table(Secret, title, exactly_one=("env", "file")), about=about)


def without_credentials(text: str) -> str:
    """*text* without the user names and passwords of its URLs; of an odd one rather too much is removed."""
    return _PASSWORD.sub(r"\1...", _USER.sub(r"\1", text))


def masked(text: str) -> str:
    """*text* with asterisks for them, so that all else stays where it is."""
    hidden = _USER.sub(lambda found: f"{found[1]}{'*' * len(found[2])}@", text)
    return _PASSWORD.sub(lambda found: found[1] + "*" * (len(found[0]) - len(found[1])), hidden)


def has_password(text: str) -> bool:
    """Whether *text* is a URL that holds a password."""
    return _PASSWORD.search(text) is not None or any(":" in found[2] for found in _USER.finditer(text))
