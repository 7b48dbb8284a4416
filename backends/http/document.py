"""Reads documents of servers, which may have any form: a value that is not of its type is as good as absent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, TypeGuard

from hybrid_llm.core.jsonable import Json

_MOST_BYTES: Final = 64 << 10
"""A document is cut behind the piece with which it has more: an error or a few keys have less."""


async def bytes_of(pieces: AsyncGenerator[bytes, None]) -> bytes:
    """The bytes of all *pieces*, which are closed; cut where they are more than a document has."""
    body = bytearray()
    async with aclosing(pieces):
        async for piece in pieces:
            body += piece
            if len(body) > _MOST_BYTES:
                break
    return bytes(body)


def object_of(value: Any) -> Json:
    """*value*, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def objects_of(value: Any) -> list[Json]:
    """The objects in *value*, if it is a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """*value*, if it is a text; else an empty one."""
    return value if isinstance(value, str) else ""


def flag_of(value: Any) -> bool | None:
    """*value*, if it is true or false."""
    return value if isinstance(value, bool) else None


def is_count(value: Any) -> TypeGuard[int]:
    """Whether *value* can be a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def count_of(value: Any) -> int:
    """*value*, if it is a number of tokens; else 0."""
    return value if is_count(value) else 0


def error_of(document: Any) -> Json:
    """The error in *document*, which some servers send bare."""
    return object_of(object_of(document).get("error", document))
