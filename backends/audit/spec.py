"""Where a node or an app keeps its audit log: the keys of `audit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.database import DatabaseAddress
from hybrid_llm.core.database.keys import DATABASE
from hybrid_llm.core.fields import File, Flag, Text, key

if TYPE_CHECKING:
    from hybrid_llm.backends.audit.writer import AuditWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSpec(Checked):
    """An audit log of requests; no text of a request or an answer is in it."""

    file: DatabaseAddress = key(DATABASE, "The SQLite file, or a PostgreSQL database that several share.")
    name: str = key(Text("a name"), "The log's name; a database holds several, each of one process.", default="app")
    required: bool = key(Flag(), "Refuse a request that cannot be recorded.", default=False)
    key: Path = key(File(), "The log's private key: `hybrid-llm audit init` makes one.", examples=("audit.key",))

    def open(self) -> AuditWriter:
        """Open the log, and start the thread that writes it.

        Raises:
            ConfigError: the key or the database is unusable, or the log is not what was written.
        """
        from hybrid_llm.backends.audit.keys import AuditKey
        from hybrid_llm.backends.audit.log import AuditLog
        from hybrid_llm.backends.audit.writer import AuditWriter

        return AuditWriter(AuditLog(self.file, self.name, AuditKey.load(self.key)), required=self.required)
