"""Spans of time: `10m..25m` of a trace, and `22:00-07:00` of every day; nothing else about time is here."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["DAY_S", "Daily", "Spans", "parse_clock", "parse_daily", "parse_duration", "parse_span"]

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
    begin, dots, end = text.partition("..")
    if not dots:
        raise ValueError(f"`{text}` is not a span such as 10m..25m")
    span = parse_duration(begin), parse_duration(end)
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
    begin, dash, end = text.partition("-")
    if not dash:
        raise ValueError(f"`{text}` is not a part of the day such as 22:00-07:00")
    span = parse_clock(begin), parse_clock(end)
    if span[0] == span[1]:
        raise ValueError(f"`{text}` is empty: for the whole day write 00:00-12:00 and 12:00-00:00")
    return span


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
        """The number of the day, counted from 0, that *at_s* is in."""
        return int((at_s + self.start_s) // DAY_S)
