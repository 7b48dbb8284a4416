"""Secrets that a file names and does not hold: keys of servers, headers of collectors."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import File, Table, Text, key, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Where a secret is found; it is read when it is needed, and never shown."""

    env: str | None = key(Text("the name of a variable"), "The environment variable that holds it.", default=None)
    file: Path | None = key(File(), "The file that holds it.", default=None)

    def read(self, name: str) -> str:
        """The secret, without white space around it.

        Raises:
            ConfigError: there is none, or it is not printable ASCII; with *name* and the place, and nothing of it.
        """
        place = f"the environment variable {self.env}" if self.env is not None else str(self.file)
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
        return self.file.read_text(encoding="utf-8")


def secret_table(title: str, about: str) -> Table:
    """The table of a secret in a file, as `{env: NAME}` or `{file: PATH}`."""
    return replace(table(Secret, title, exactly_one=("env", "file")), about=about)
