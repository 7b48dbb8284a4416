"""Traces of requests: synthetic ones, and files of Azure, Mooncake or recorded decisions; and spans of their time.

Azure: `TIMESTAMP,ContextTokens,GeneratedTokens` (Patel et al., Splitwise, ISCA 2024; CC BY 4.0). Mooncake: one JSON
object a line with `timestamp` (ms), `input_length`, `output_length` (Qin et al., FAST 2025; Apache-2.0).
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO, cast

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.lab.recordings import read_recordings

DAY_S: Final = 86400.0
_HAIR: Final = 1e-6
_UNITS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)|(0)")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


def parse_duration(text: str) -> float:
    """Seconds of `30ms`, `10s`, `25m`, `2h`, `1d` or `0`; raises `ValueError` with what to write."""
    match = _DURATION.fullmatch(text) if len(text) < 40 else None
    if match is None:
        raise ValueError(f"`{text}` is not a duration such as 30ms, 10s, 25m, 2h or 1d")
    return 0.0 if match[3] else float(match[1]) * _UNITS[match[2]]


def parse_span(text: str) -> tuple[float, float]:
    """Begin and end, in seconds since the start of the trace, of `10m..25m`; raises `ValueError`."""
    span = _pair(text, "..", parse_duration, "a span such as 10m..25m")
    if span[1] <= span[0]:
        raise ValueError(f"`{text}` ends before it begins")
    return span


def parse_clock(text: str) -> float:
    """Seconds since midnight of `07:30`; raises `ValueError`."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is not a time of day such as 07:30")
    return int(match[1]) * 3600.0 + int(match[2]) * 60.0


def parse_daily(text: str) -> tuple[float, float]:
    """Begin and end, in seconds since midnight, of `22:00-07:00`; it may pass midnight. Raises `ValueError`."""
    span = _pair(text, "-", parse_clock, "a part of the day such as 22:00-07:00")
    if span[0] == span[1]:
        raise ValueError(f"`{text}` is empty: for the whole day write 00:00-12:00 and 12:00-00:00")
    return span


def _pair(text: str, between: str, parse: Callable[[str], float], words: str) -> tuple[float, float]:
    begin, found, end = text.partition(between)
    if not found:
        raise ValueError(f"`{text}` is not {words}")
    return parse(begin), parse(end)


class Spans:
    """A set of spans of the trace's time; those that overlap are one."""

    def __init__(self, spans: Iterable[tuple[float, float]] = ()) -> None:
        merged: list[list[float]] = []
        for begin, end in sorted(spans):
            if merged and begin <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([begin, end])
        self.edges = tuple(edge for span in merged for edge in span)
        """Begin, end, begin, end, ... in order."""

    def covers(self, at_s: float) -> bool:
        """Whether *at_s* is in a span; its first instant is, its last is not."""
        return bool(bisect_right(self.edges, at_s) % 2)


@dataclass(frozen=True, slots=True)
class Daily:
    """Parts of every day; *start_s* is the time of day, in seconds, at which the trace begins."""

    spans: tuple[tuple[float, float], ...]
    start_s: float

    def covers(self, at_s: float) -> bool:
        """Whether the time of day at *at_s* of the trace is in a part."""
        clock = (at_s + self.start_s) % DAY_S
        return any(a <= clock < b if a < b else clock >= a or clock < b for a, b in self.spans)

    def next_edge(self, at_s: float) -> float:
        """When, after *at_s*, the next part begins or ends; infinity where there is none."""
        clock = (at_s + self.start_s) % DAY_S
        waits = [(edge - clock) % DAY_S for span in self.spans for edge in span]
        return at_s + min([wait if wait > _HAIR else DAY_S for wait in waits], default=math.inf)

    def day(self, at_s: float) -> int:
        """The number of the day of *at_s*, from 0."""
        return int((at_s + self.start_s) // DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request. What the trace does not give is None, and taken from the world."""

    at_s: float
    """Seconds since the start of the trace."""
    prompt_tokens: int
    output_tokens: int
    """Tokens of the answer, unless a limit cuts it."""
    max_tokens: int | None = None
    deadline_s: float | None = None
    task: str = "chat"
    tags: frozenset[str] = frozenset()
    """The tags that the app declares."""
    found: frozenset[str] = frozenset()
    """Those for which a detector finds something in the texts, declared or not."""
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests in order of time, and a description of their source."""

    arrivals: tuple[Arrival, ...]
    source: str

    @property
    def span_s(self) -> float:
        """From the first request to the last."""
        return self.arrivals[-1].at_s - self.arrivals[0].at_s if self.arrivals else 0.0

    @property
    def per_hour(self) -> float:
        """Mean rate; infinite where all come at once."""
        gaps = len(self.arrivals) - 1
        return 3600.0 * gaps / self.span_s if self.span_s > 0.0 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A kind of request of the synthetic trace: its share, and two lognormal distributions of tokens."""

    name: str
    share: float
    prompt_median: float
    prompt_sigma: float
    output_median: float
    output_sigma: float


TASKS: Final = (
    Task(name="chat", share=0.6, prompt_median=150.0, prompt_sigma=0.9, output_median=90.0, output_sigma=0.7),
    Task(name="summarise", share=0.25, prompt_median=900.0, prompt_sigma=0.7, output_median=120.0, output_sigma=0.5),
    Task(name="extract", share=0.15, prompt_median=400.0, prompt_sigma=0.6, output_median=40.0, output_sigma=0.5),
)
"""The mix of the synthetic trace, as in docs/simulation.md. exp(sigma) is the spread around the median."""

_SWING: Final = 0.8
_BUSIEST_S: Final = 15.0 * 3600.0


def synthetic(count: int, *, per_hour: float, seed: int, day_starts_s: float) -> Trace:
    """*count* requests of an inhomogeneous Poisson process, busiest at 15:00, made by thinning.

    Rate at time of day c: per_hour * (1 + 0.8 cos(2 pi (c - 15 h) / 24 h)) (Lewis and Shedler, 1979).
    """
    rng = random.Random(f"{seed}/trace")  # noqa: S311  a simulation, no secret
    most = per_hour * (1.0 + _SWING) / 3600.0
    arrivals: list[Arrival] = []
    now = 0.0
    while len(arrivals) < count:
        now += rng.expovariate(most)
        phase = 2.0 * math.pi * (now + day_starts_s - _BUSIEST_S) / DAY_S
        if rng.random() * (1.0 + _SWING) < 1.0 + _SWING * math.cos(phase):
            arrivals.append(_draw(rng, now))
    return Trace(arrivals=tuple(arrivals), source=f"synthetic: {count} requests, {per_hour:g} an hour, seed {seed}")


def _draw(rng: random.Random, now: float) -> Arrival:
    task = rng.choices(TASKS, weights=[task.share for task in TASKS])[0]
    prompt = rng.lognormvariate(math.log(task.prompt_median), task.prompt_sigma)
    output = rng.lognormvariate(math.log(task.output_median), task.output_sigma)
    return Arrival(at_s=now, prompt_tokens=max(1, round(prompt)), output_tokens=max(1, round(output)), task=task.name)


def with_tags(
    trace: Trace, shares: Mapping[str, float], found: Mapping[str, float] | None = None, *, seed: int
) -> Trace:
    """The trace with random tags: each request gets each tag with its probability, independently.

    The app declares those of *shares*; detectors find something for those of *found*.
    """
    declares, finds = _Draws(shares, f"{seed}/tag"), _Draws(found or {}, f"{seed}/found")
    arrivals = [replace(one, tags=one.tags | declares(), found=one.found | finds()) for one in trace.arrivals]
    return replace(trace, arrivals=tuple(arrivals))


class _Draws:
    """Draws a set of tags, each with its probability."""

    def __init__(self, shares: Mapping[str, float], seed: str) -> None:
        self._shares = shares
        self._draws = {tag: random.Random(f"{seed}/{tag}") for tag in shares}  # noqa: S311

    def __call__(self) -> frozenset[str]:
        return frozenset([tag for tag, share in self._shares.items() if self._draws[tag].random() < share])


def at_rate(trace: Trace, per_hour: float) -> Trace:
    """The same requests with all gaps stretched by one factor, so that the mean rate is *per_hour*."""
    if trace.span_s <= 0.0:
        return trace
    factor = trace.per_hour / per_hour
    first = trace.arrivals[0].at_s
    return replace(
        trace,
        arrivals=tuple(replace(one, at_s=(one.at_s - first) * factor) for one in trace.arrivals),
        source=f"{trace.source}, stretched to {per_hour:g} an hour",
    )


_AZURE: Final = "TIMESTAMP,ContextTokens,GeneratedTokens"
_MOONCAKE: Final = frozenset({"timestamp", "input_length", "output_length"})
_MOST_TOKENS: Final = 100_000_000
_MOST_MS: Final = 1e15
_GZIP: Final = b"\x1f\x8b"


class _BadLine(Exception):
    """One line is invalid; the message has the reason."""


def load_trace(path: Path, *, limit: int | None = None) -> Trace:
    """The first *limit* requests in *path*, plain or gzipped; the first line determines the format.

    Raises:
        ConfigError: the file cannot be read, its format is unknown, or a line is invalid.
    """
    try:
        arrivals, form = _read(path, limit)
    except OSError as error:
        raise ConfigError(f"{path}: the trace cannot be read: {error.strerror or error}", path=str(path)) from error
    except (UnicodeDecodeError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: the trace is damaged or not text ({error})", path=str(path)) from error
    if not arrivals:
        raise ConfigError(f"{path}: the trace has no request", path=str(path))
    ordered = sorted(arrivals, key=lambda one: one.at_s)
    moved = tuple(replace(one, at_s=one.at_s - ordered[0].at_s) for one in ordered)
    return Trace(arrivals=moved, source=f"{path.name} ({form}), {len(moved)} requests")


def _read(path: Path, limit: int | None) -> tuple[list[Arrival], str]:
    with _open(path) as stream:
        first = stream.readline().rstrip("\r\n").removeprefix("\ufeff")
        if first == _AZURE:
            found, form = _lines(path, stream, 2, _azure), "Azure LLM inference trace"
        elif _is_mooncake(first):
            found, form = _lines(path, itertools.chain([first], stream), 1, _mooncake), "Mooncake trace"
        elif first.startswith("{"):
            found, form = _recorded(path), "recorded decisions"
        else:
            raise ConfigError(
                f"{path}: line 1: unknown format; a trace begins with `{_AZURE}`, or each line is a JSON object of "
                "Mooncake's trace or of recorded decisions",
                path=str(path),
            )
        return list(itertools.islice(found, limit)), form


def _recorded(path: Path) -> Iterator[Arrival]:
    """The requests of recorded decisions; an answer of unknown length counts as `max_tokens` long."""
    for one in read_recordings(path):
        yield Arrival(
            at_s=one.at,
            prompt_tokens=one.metadata.prompt_tokens,
            output_tokens=one.outcome.completion_tokens or one.metadata.max_tokens,
            max_tokens=one.metadata.max_tokens,
            deadline_s=one.metadata.deadline,
            task=one.metadata.task,
            found=one.metadata.privacy,  # whether the app declared a tag as well is not recorded
            tenant=one.metadata.tenant,
        )


def _open(path: Path) -> TextIO:
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
    return cast(TextIO, gzip.open(path, "rt", encoding="utf-8")) if packed else path.open(encoding="utf-8")


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
    seconds = at.replace(tzinfo=at.tzinfo or UTC).timestamp()
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
