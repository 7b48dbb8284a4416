"""Round-trip times over the time of a trace: constant, from a CSV file, or of one pair in the NetLatency data.

NetLatency-Data (Zhu et al., IEEE/ACM Transactions on Networking 25(2), 2017; MIT licence) holds matrices of the
round-trip times between personal devices, in seconds, one for each slice of time.
"""

from __future__ import annotations

import csv
import io
import random
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hybrid_llm.core.errors import ConfigError

_SLICE = re.compile(r"(?:.*/)?SeattleData_([0-9]+)")
_MOST_BYTES = 4 * 1024 * 1024
_HEADER = ("seconds", "rtt_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrips:
    """Steps over time: from *starts_s[i]* on, *rtt_ms[i]* ms; after *period_s* it begins again."""

    starts_s: tuple[float, ...]
    rtt_ms: tuple[float, ...]
    period_s: float
    source: str
    """A description of where they come from."""

    def at(self, at_s: float) -> float:
        """The round-trip time at *at_s* of the trace, ms."""
        return self.rtt_ms[bisect_right(self.starts_s, at_s % self.period_s) - 1]

    @property
    def median_ms(self) -> float:
        """The median of all steps, ms."""
        return sorted(self.rtt_ms)[len(self.rtt_ms) // 2]


def constant_rtt(rtt_ms: float) -> RoundTrips:
    """Always *rtt_ms*."""
    return RoundTrips(starts_s=(0.0,), rtt_ms=(rtt_ms,), period_s=1.0, source=f"constant {rtt_ms:g} ms")


def load_rtt(path: Path, *, seed: int, slice_s: float, pair: tuple[int, int] | None = None) -> RoundTrips:
    """The round-trip times in *path*: NetLatency's `.tar.xz`, or a CSV of `seconds,rtt_ms`.

    *pair* chooses two devices of NetLatency, counted from 1; without it *seed* draws them.

    Raises:
        ConfigError: the file cannot be read, or a line is invalid.
    """
    try:
        if tarfile.is_tarfile(path):
            return _netlatency(path, seed=seed, slice_s=slice_s, pair=pair)
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the round-trip times cannot be read: {error.strerror}", path=str(path)) from error
    except (UnicodeDecodeError, tarfile.TarError, EOFError) as error:
        raise _wrong(path, f"this is neither NetLatency's .tar.xz nor a CSV of seconds,rtt_ms ({error})") from error
    return _table(path, text)


def _wrong(path: Path, message: str) -> ConfigError:
    return ConfigError(f"{path}: {message}", path=str(path))


def _table(path: Path, text: str) -> RoundTrips:
    rows = csv.reader(io.StringIO(text))
    if tuple(next(rows, ())) != _HEADER:
        raise _wrong(path, "line 1 must be `seconds,rtt_ms`")
    found: list[tuple[float, float]] = []
    for number, row in enumerate(rows, 2):
        found.append(_row(path, number, row))
        if number > 2 and found[-1][0] <= found[-2][0]:
            raise _wrong(path, f"line {number}: the seconds must increase")
    if not found or found[0][0] != 0.0:
        raise _wrong(path, "line 2 must be the value from second 0 on, such as 0,30")
    starts, rtts = zip(*found, strict=True)
    last = starts[-1] + (starts[-1] - starts[-2] if len(starts) > 1 else 1.0)
    return RoundTrips(starts_s=starts, rtt_ms=rtts, period_s=last, source=path.name)


def _row(path: Path, number: int, row: list[str]) -> tuple[float, float]:
    try:
        seconds, rtt = map(float, row)
    except ValueError:
        raise _wrong(path, f"line {number}: `{','.join(row)[:40]}` is not two numbers, seconds and ms") from None
    if not (0.0 <= seconds < 1e12 and 0.0 <= rtt < 1e9):
        raise _wrong(path, f"line {number}: both numbers must be 0 or more, and finite")
    return seconds, rtt


def _netlatency(path: Path, *, seed: int, slice_s: float, pair: tuple[int, int] | None) -> RoundTrips:
    slices = dict(_slices(path))
    if not slices:
        raise _wrong(path, "the archive has no file named SeattleData_1, SeattleData_2, ...")
    size = min(len(rows) for rows in slices.values())
    a, b = pair or random.Random(f"{seed}/rtt").sample(range(1, size + 1), 2)  # noqa: S311  a simulation, no secret
    if not (1 <= a <= size and 1 <= b <= size and a != b):
        raise ConfigError(f"--rtt-pair: two different devices from 1 to {size} are there, not {a},{b}")
    rtts = tuple(_entry(path, number, slices[number], a, b) for number in sorted(slices))
    starts = tuple(slice_s * index for index in range(len(rtts)))
    source = f"{path.name}, devices {a} and {b}, {len(rtts)} slices of {slice_s:g} s"
    return RoundTrips(starts_s=starts, rtt_ms=rtts, period_s=slice_s * len(rtts), source=source)


def _slices(path: Path) -> Iterator[tuple[int, list[str]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            match = _SLICE.fullmatch(member.name)
            if match is None or not member.isfile():
                continue
            stream = archive.extractfile(member)
            if stream is None or member.size > _MOST_BYTES:
                raise _wrong(path, f"{member.name} is not a matrix")
            yield int(match[1]), stream.read().decode("ascii").splitlines()


def _entry(path: Path, number: int, rows: list[str], a: int, b: int) -> float:
    try:
        seconds = float(rows[a - 1].split()[b - 1])
    except (ValueError, IndexError):
        raise _wrong(path, f"SeattleData_{number}, line {a}: there is no number in column {b}") from None
    if not 0.0 <= seconds < 1e6:
        raise _wrong(path, f"SeattleData_{number}, line {a}, column {b}: {seconds} is not a round-trip time in seconds")
    return seconds * 1000.0
