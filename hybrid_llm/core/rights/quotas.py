"""Quotas of tokens: two token buckets for each account, of a minute and of a day, reserved first and settled later.

A bucket of limit L over a period P lends at most L tokens at once and regains L / P each second, so that within any
time T no account uses more than L + L * T / P. A request reserves its prompt and its longest answer; what is reserved
is out of the buckets until the request ends, and then only what was used stays out, and is regained from there on.
What a process that died had reserved counts as used once it expires: too much rather than too little.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.errors import QuotaExceeded
from hybrid_llm.core.rights.counters import Counters, CountersError, CounterStore, Line
from hybrid_llm.core.rights.grants import Limits

_MICRO: Final = 1_000_000
_MINUTE: Final = "minute"
_DAY: Final = "day"
_PERIODS: Final[Mapping[str, int]] = {_MINUTE: 60, _DAY: 86_400}
"""Bucket -> its period, seconds."""
_OPEN: Final = "open "
"""Before the id of a reservation, in the name of its line."""
_FORGOTTEN_S: Final = 2 * 86_400
_MOST_OWED: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One reservation of *tokens* on *account*."""

    account: str
    line: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an account has out of one bucket now, in tokens; *reserved* is of requests that have not ended."""

    bucket: str
    used: float
    reserved: int


class Quotas:
    """Books tokens in *store*. Every call is atomic, also between processes; *clock* gives seconds since 1970.

    Thread-safe. Where *is_remote*, every call but `settle` waits for another machine: make it in a thread.
    """

    def __init__(self, store: CounterStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._owed: list[tuple[Charge, int]] = []
        """Settled and not written yet; it is shortened under the lock alone, and only from the beginning."""
        self._lock = threading.Lock()

    @property
    def is_remote(self) -> bool:
        """Whether the store is on another machine."""
        return self._store.is_remote

    def reserve(
        self, account: str, limits: Limits, tokens: int, *, expires_s: float, backend: str = ""
    ) -> Charge | None:
        """Reserve *tokens* on *account* for at most *expires_s* seconds; None where nothing is limited.

        Raises:
            QuotaExceeded: a bucket has less; `retry_after` is when it has enough, None if it never can.
            CountersError: the store cannot be read or written.
        """
        buckets = _limited(limits)
        if not buckets:
            return None
        charge = Charge(account=account, line=_OPEN + secrets.token_hex(8), tokens=tokens)
        now = int(self._clock() * _MICRO)
        with self._paying(now) as counters:
            state = _State(counters, account, now, buckets)
            refusals = (_refusal(bucket, limit, tokens, state, backend) for bucket, limit in buckets.items())
            refusal = next(filter(None, refusals), None)
            if refusal is None:
                state.reserved[charge.line] = (tokens, now + int(expires_s * _MICRO), 0)
            if refusal is None or state.clock_went_back:
                state.write()
        if refusal is not None:
            raise refusal
        return charge

    def settle(self, charge: Charge | None, tokens: int) -> None:
        """Turn a reservation into *tokens* used; what is not written now is written with the next call.

        A store on another machine gets it by `flush`.
        """
        if charge is None:
            return
        if len(self._owed) < _MOST_OWED:
            self._owed.append((charge, tokens))
        if not self.is_remote:
            with suppress(CountersError):
                self.flush()

    def flush(self) -> None:
        """Write what is settled and not written yet; raises CountersError."""
        if self._owed:
            with self._paying(int(self._clock() * _MICRO)):
                pass

    def usage(self, account: str, limits: Limits) -> list[Usage]:
        """What *account* has out of its buckets; raises CountersError."""
        now = int(self._clock() * _MICRO)
        with self._store.transaction(writes=False) as counters:
            state = _State(counters, account, now, _limited(limits))
        reserved = state.total_reserved
        return [Usage(bucket=bucket, used=used / _MICRO, reserved=reserved) for bucket, used in state.used.items()]

    def prune(self) -> None:
        """Forget accounts whose buckets have been untouched for two days; raises CountersError."""
        oldest = int((self._clock() - _FORGOTTEN_S) * _MICRO)
        with self._store.transaction(writes=True) as counters:
            for account in counters.accounts():
                lines = counters.lines(account)
                if all(at < oldest for _, at, _ in lines.values()):
                    for line in lines:
                        counters.write(account, line, None)

    def close(self) -> None:
        """Write what is settled, and close the store."""
        try:
            self.flush()
        except CountersError:
            pass
        finally:
            self._store.close()

    @contextmanager
    def _paying(self, now: int) -> Iterator[Counters]:
        """A transaction that writes what is settled, too."""
        with self._lock:
            owed = list(self._owed)
            with self._store.transaction(writes=True) as counters:
                self._pay(counters, owed, now)
                yield counters
            del self._owed[: len(owed)]

    def _pay(self, counters: Counters, owed: Sequence[tuple[Charge, int]], now: int) -> None:
        for charge, tokens in owed:
            state = _State(counters, charge.account, now)
            if state.reserved.pop(charge.line, None) is not None:
                state.add(tokens)
                state.write()


def _limited(limits: Limits) -> dict[str, int]:
    found = {_MINUTE: limits.tokens_per_minute, _DAY: limits.tokens_per_day}
    return {bucket: limit for bucket, limit in found.items() if limit is not None}


def _refusal(bucket: str, limit: int, tokens: int, state: _State, backend: str) -> QuotaExceeded | None:
    """Why *tokens* are not lent out of *bucket*; None if they are."""
    if tokens > limit:
        text = f"the request may take {tokens} tokens, more than the {limit} of a {bucket}: lower max_tokens"
        return QuotaExceeded(text, backend=backend)
    over = state.used[bucket] + (state.total_reserved + tokens - limit) * _MICRO
    if over <= 0:
        return None
    wait = round(max(over * _PERIODS[bucket] / limit / _MICRO, 0.001), 3)
    return QuotaExceeded(f"the {limit} tokens of this {bucket} are used up", backend=backend, retry_after=wait)


class _State:
    """The lines of one account at *now*, in microseconds since 1970; a bucket has used, in millionths, at and limit.

    *limits* are those by which buckets regain tokens from now on; without them, those of the last reservation.
    """

    def __init__(self, counters: Counters, account: str, now: int, limits: Mapping[str, int] | None = None) -> None:
        lines = counters.lines(account)
        self._counters, self._account = counters, account
        self.reserved = {line: values for line, values in lines.items() if line.startswith(_OPEN)}
        expired = sorted(
            (expires, tokens, line) for line, (tokens, expires, _) in self.reserved.items() if expires <= now
        )
        for *_, line in expired:
            del self.reserved[line]
        buckets = {bucket: lines[bucket] for bucket in _PERIODS if bucket in lines}
        self._limits = {bucket: limit for bucket, (_, _, limit) in buckets.items()}
        self.used = {bucket: _level(bucket, line, expired, now) for bucket, line in buckets.items()}
        self._at = {bucket: _instant(bucket, at, now) for bucket, (_, at, _) in buckets.items()}
        self.clock_went_back = any(at > now for _, at, _ in buckets.values())
        self._stored = frozenset(lines)
        if limits is not None:
            self._limits = dict(limits)
            self.used = {bucket: self.used.get(bucket, 0) for bucket in limits}
            self._at = {bucket: self._at.get(bucket, now) for bucket in limits}

    @property
    def total_reserved(self) -> int:
        """Tokens that requests in flight have reserved."""
        return sum(tokens for tokens, _, _ in self.reserved.values())

    def add(self, tokens: int) -> None:
        """Count *tokens* as used in every bucket."""
        self.used = {bucket: used + tokens * _MICRO for bucket, used in self.used.items()}

    def write(self) -> None:
        """Store the state."""
        lines = {bucket: (self.used[bucket], self._at[bucket], self._limits[bucket]) for bucket in self.used}
        for line, values in {**lines, **self.reserved}.items():
            if line in lines or line not in self._stored:
                self._counters.write(self._account, line, values)
        for line in self._stored - lines.keys() - self.reserved.keys():
            self._counters.write(self._account, line, None)


def _level(bucket: str, line: Line, expired: Iterable[tuple[int, int, str]], now: int) -> int:
    """Millionths of tokens that are used and not regained by *now*; what has *expired* is used from then on."""
    used, at, limit = line
    for instant, tokens in (*((expires, tokens) for expires, tokens, _ in expired), (now, 0)):
        used = max(used - max(instant - at, 0) * limit // _PERIODS[bucket], 0) + tokens * _MICRO
        at = max(at, instant)
    return used


def _instant(bucket: str, at: int, now: int) -> int:
    """The instant of the level at *now*; a clock that goes back a little regains nothing twice."""
    return at if 0 < at - now <= _PERIODS[bucket] * _MICRO else now
