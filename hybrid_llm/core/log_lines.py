"""Log records as one JSON object a line, for collectors of logs."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Final

FIELDS: Final = "fields"
"""The attribute of a record, set by `extra={FIELDS: {...}}`, whose names and values stand beside the message."""


_MOST_FRAMES: Final = 20


class JSONLines(logging.Formatter):
    """Formats a record as `time` (RFC 3339, UTC), `level`, `logger`, `message`, and its fields.

    Of an exception only the class and where it was raised are written: its text may quote what it was about.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": at, "level": record.levelname, "logger": record.name}
        line["message"] = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])[-_MOST_FRAMES:]
            line["stack"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        line |= {key: value for key, value in getattr(record, FIELDS, {}).items() if key not in line}
        return json.dumps(line, ensure_ascii=False, default=str)
