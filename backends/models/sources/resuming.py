"""A download that survives cuts: what has arrived stays in a `.part` file, and the next attempt goes on there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.sources.source import BLOCK, Report, Reporter
from hybrid_llm.backends.models.space import require_space
from hybrid_llm.core.jsontext import read_json

_ATTEMPTS: Final = 4
"""Attempts in a row that bring nothing before the download fails."""
_PAUSE_S: Final = 0.5


class Broken(Exception):
    """The transfer broke off, or could not begin; trying again may help. The text says how."""


class Refused(Broken):
    """As `Broken`, where trying again cannot help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Which content a server has: its tag, and its size in bytes; 0 where it does not say."""

    tag: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The content from *start* on, in blocks that `read` returns; empty at the end."""

    version: Version
    start: int
    read: Callable[[int], bytes]
    close: Callable[[], None]


Open = Callable[[int, Version | None], Body]
"""Opens the content at an offset; of another version than the one that is passed, it begins at 0. Raises `Broken`."""


def download(path: Path, open_at: Open, report: Report) -> None:
    """Download into *path*, going on where an earlier download of the same version ended.

    Raises:
        Broken: it failed again and again without getting further; what has arrived stays for the next run.
        NoSpace: the disk has no room for the rest.
    """
    part, failures = path.with_name(f"{path.name}.part"), 0
    while True:
        before = _size(part)
        try:
            _attempt(part, open_at, report)
            break
        except Broken as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= _ATTEMPTS or isinstance(error, Refused):
                raise
            report(f"the connection broke at {_size(part):,} bytes, trying again", 0.0)
            time.sleep(_PAUSE_S * failures)
    part.replace(path)
    _note(part).unlink(missing_ok=True)


def _attempt(part: Path, open_at: Open, report: Report) -> None:
    known = _known(part)
    body = open_at(_size(part) if known else 0, known)
    try:
        _note(part).write_text(json.dumps(asdict(body.version)), encoding="utf-8")
        total = body.version.size
        require_space(part.parent, max(0, total - body.start), "the download")
        progress = Reporter(report, "downloading", total, body.start)
        with part.open("r+b" if body.start else "wb") as out:
            out.seek(body.start)
            out.truncate()
            while block := body.read(BLOCK):
                out.write(block)
                out.flush()
                progress.add(len(block))
    finally:
        body.close()
    if total and progress.done != total:
        raise Broken(f"{progress.done:,} of {total:,} bytes arrived")


def _known(part: Path) -> Version | None:
    """The version that *part* is the beginning of; None if there is none or it had no tag."""
    try:
        noted = read_json(_note(part))
        version = Version(tag=str(noted["tag"]), size=int(noted["size"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if version.tag and part.is_file() else None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
