"""Keeps texts out of the log of the package `mcp`, whose tracebacks quote messages that it could not read."""

from __future__ import annotations

import logging
from typing import Final

_QUOTING: Final = (
    "mcp.client.session",
    "mcp.client.stdio",
    "mcp.client.streamable_http",
    "mcp.server.runner",
    "mcp.server.streamable_http",
    "mcp.shared.jsonrpc_dispatcher",
)
"""Its loggers that write exceptions; what these quote may be a prompt, an answer or the result of a tool."""


class _WithoutTexts(logging.Filter):
    """Leaves the class of an exception, and below WARNING nothing, since the messages themselves are logged there."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and (kind := record.exc_info[0]) is not None:
            record.msg, record.args = "%s (%s)", (record.msg.partition(":")[0], kind.__name__)
            record.exc_info = record.exc_text = None
        return record.levelno >= logging.WARNING


_filter: Final = _WithoutTexts()


def keep_texts_out() -> None:
    """Filter the log of the package in this process. Idempotent."""
    for name in _QUOTING:
        logging.getLogger(name).addFilter(_filter)
