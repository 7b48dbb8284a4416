"""The kind of a key whose value says where a database is."""

from __future__ import annotations

from typing import Final

from hybrid_llm.core.database.parts import POSTGRESQL
from hybrid_llm.core.fields import File, Text, one_of
from hybrid_llm.core.secret import secret_table


def _postgresql(text: str) -> str:
    if not text.startswith(POSTGRESQL):
        raise ValueError("this is not a postgresql: URL")  # it may hold a password
    return text


DATABASE: Final = one_of(
    Text("a postgresql: URL", "^postgres(ql)?://", _postgresql),
    File(),
    secret_table("a postgresql: URL elsewhere", "Where the URL is found, which may hold a password."),
)
"""Where a database is: a URL, an SQLite file, or where a URL is found, which may then hold a password."""
