"""Reads traces of requests: the Azure LLM inference trace, Mooncake's, and recorded decisions; every bad line is told.

Azure: `TIMESTAMP,ContextTokens,GeneratedTokens` (Patel et al., Splitwise, ISCA 2024; CC BY 4.0). Mooncake: one JSON
object a line with `timestamp` (ms), `input_length`, `output_length` (Qin et al., FAST 2025; Apache-2.0).
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO, cast

from hybrid_llm.policies.simulation.arrivals import Arrival, Trace
from hybrid_llm.router.errors import ConfigError

__all__ = ["Recordings", "load_trace"]

Recordings = Callable[[Path], Iterable[Arrival]]
"""Reads our own recordings of decisions; raises `ConfigError`."""

_AZURE: Final = "TIMESTAMP,ContextTokens,GeneratedTokens"
_MOONCAKE: Final = frozenset({"timestamp", "input_length", "output_length"})
_MOST_TOKENS: Final = 100_000_000
_MOST_MS: Final = 1e15
_GZIP: Final = b"\x1f\x8b"
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  only differences count, and the trace names no zone


class _BadLine(Exception):
    """What is wrong with one line."""


def load_trace(path: Path, recordings: Recordings, *, limit: int | None = None) -> Trace:
    """The first *limit* requests in *path*, plain or gzipped; its first line tells the form.

    Raises:
        ConfigError: the file cannot be read, its form is unknown, or a line is wrong.
    """
    try:
        arrivals, form = _read(path, recordings, limit)
    except OSError as error:
        raise ConfigError(f"{path}: the trace cannot be read: {error.strerror or error}", path=str(path)) from error
    except (UnicodeDecodeError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: the trace is damaged or not text ({error})", path=str(path)) from error
    if not arrivals:
        raise ConfigError(f"{path}: the trace has no request", path=str(path))
    first = min(one.at_s for one in arrivals)
    ordered = sorted(arrivals, key=lambda one: one.at_s)
    moved = tuple(_from_zero(one, first) for one in ordered)
    return Trace(arrivals=moved, source=f"{path.name} ({form}), {len(moved)} requests")


def _read(path: Path, recordings: Recordings, limit: int | None) -> tuple[list[Arrival], str]:
    with _open(path) as stream:
        first = stream.readline().rstrip("\r\n").removeprefix("\ufeff")
        if first == _AZURE:
            return list(itertools.islice(_lines(path, stream, 2, _azure), limit)), "Azure LLM inference trace"
        if _is_mooncake(first):
            lines = itertools.chain([first], stream)
            return list(itertools.islice(_lines(path, lines, 1, _mooncake), limit)), "Mooncake trace"
    if first.startswith("{"):
        return list(itertools.islice(recordings(path), limit)), "recorded decisions"
    raise ConfigError(
        f"{path}: line 1: the form is not known; a trace begins with `{_AZURE}`, or each line is a JSON object of "
        "Mooncake's trace or of recorded decisions",
        path=str(path),
    )


def _open(path: Path) -> TextIO:
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
    return cast(TextIO, gzip.open(path, "rt", encoding="utf-8")) if packed else path.open(encoding="utf-8")


def _from_zero(one: Arrival, first: float) -> Arrival:
    return replace(one, at_s=one.at_s - first) if first else one


def _lines(path: Path, lines: Iterable[str], start: int, read: Callable[[str], Arrival]) -> Iterator[Arrival]:
    for number, line in enumerate(lines, start):
        if not line.strip():
            continue
        try:
            yield read(line.rstrip("\r\n"))
        except _BadLine as wrong:
            raise ConfigError(f"{path}: line {number}: {wrong}", path=str(path)) from None


def _azure(line: str) -> Arrival:
    cells = line.split(",")
    if len(cells) != 3:
        raise _BadLine(f"there are {len(cells)} columns, expected are 3: {_AZURE}")
    try:
        at = datetime.fromisoformat(cells[0])
    except ValueError:
        raise _BadLine(f"`{cells[0][:40]}` is not a time such as 2023-11-16 18:15:46.6805900") from None
    seconds = (at - _EPOCH).total_seconds() if at.tzinfo is None else at.timestamp()
    prompt, output = _tokens(cells[1], "ContextTokens"), _tokens(cells[2], "GeneratedTokens")
    return Arrival(at_s=seconds, prompt_tokens=prompt, output_tokens=output)


def _mooncake(line: str) -> Arrival:
    record = _json(line)
    missing = sorted(_MOONCAKE - record.keys())
    if missing:
        raise _BadLine(f"`{missing[0]}` is missing")
    prompt, output = _tokens(record["input_length"], "input_length"), _tokens(record["output_length"], "output_length")
    at_ms = record["timestamp"]
    if isinstance(at_ms, bool) or not isinstance(at_ms, int | float) or not 0 <= at_ms < _MOST_MS:
        raise _BadLine("`timestamp` is not a number of milliseconds, 0 or more")
    return Arrival(at_s=at_ms / 1000.0, prompt_tokens=prompt, output_tokens=output)


def _is_mooncake(line: str) -> bool:
    try:
        return "input_length" in _json(line)
    except _BadLine:
        return False


def _json(line: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise _BadLine("this is not JSON") from None
    if not isinstance(record, dict):
        raise _BadLine("this is not a JSON object")
    return record


def _tokens(value: object, name: str) -> int:
    text = "" if isinstance(value, bool | float) else str(value)
    if text.isascii() and text.isdigit() and int(text[:12]) <= _MOST_TOKENS:
        return int(text)
    raise _BadLine(f"`{name}` is not a number of tokens: `{str(value)[:40]}`")
