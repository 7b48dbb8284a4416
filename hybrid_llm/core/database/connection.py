"""Connections to SQLite whose errors are those of SQLite, also of a file that is damaged."""

from __future__ import annotations

import sqlite3
from typing import Any


class Connection(sqlite3.Connection):
    """A connection for `sqlite3.connect(..., factory=Connection)`.

    SQLite's message quotes the tables of a damaged file, and where that is not UTF-8, `sqlite3` cannot decode it.
    """

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Do as `sqlite3.Connection.execute`; `sqlite3.DatabaseError` where its message cannot be decoded."""
        try:
            return super().execute(*arguments)
        except UnicodeDecodeError:
            damaged = sqlite3.DatabaseError("its tables are damaged")
            damaged.sqlite_errorcode, damaged.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
        raise damaged
