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
        """The secret, without white space around it. Raises ConfigError, with *name*, if it is not there."""
        found = os.environ.get(self.env, "") if self.env is not None else _text_of(self.file)
        if (secret := found.strip()) and secret.isascii() and secret.isprintable():
            return secret
        place = f"the environment variable {self.env}" if self.env is not None else str(self.file)
        raise ConfigError(f"{name}: {place} has no value of printable ASCII")


def secret_table(title: str, about: str) -> Table:
    """The table of a secret in a file, as `{env: NAME}` or `{file: PATH}`."""
    return replace(table(Secret, title, exactly_one=("env", "file")), about=about)


def _text_of(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8") if path is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""
