"""JSON of files that others wrote: whatever is wrong with one is a ValueError, which quotes nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_MOST: Final = 64 << 20
"""Bytes of a file that is read as a whole; records, manifests and configurations have thousands."""


def parse_json(text: str | bytes) -> Any:
    """The value that *text* holds.

    Raises:
        ValueError: it is no JSON, is not UTF-8, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:  # whose text is the whole file
        raise ValueError(f"it is not UTF-8 text, byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """The value in the file at *path*.

    Raises:
        OSError: it cannot be read.
        ValueError: as `parse_json`, or it has more than 64 MiB.
    """
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError(f"it has more than {_MOST >> 20} MiB")
    return parse_json(data)
