"""Compares a new version with the one before by the requests that each answered. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from hybrid_llm.backends.following.keys import MOST, TrialSpec

_LEAST: Final = 5
"""Times of fewer requests are not compared."""
_UNNOTICED_MS: Final = 10.0
"""Nobody notices a first token, or a label, that is later by this; other work on the device delays it by as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one request went. Times are None where there was no token, or no second one."""

    failed: bool
    ttft_ms: float | None = None
    """From the start to the first token."""
    tpot_ms: float | None = None
    """Mean time of each further token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a version has shown: medians of times, None where too few requests had them."""

    requests: int = 0
    failed: int = 0
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    @property
    def share_failed(self) -> float:
        """Failed requests of all, 0 to 1."""
        return self.failed / self.requests if self.requests else 0.0

    def to_json(self) -> dict[str, float | None]:
        """Its fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Figures:
        """Read what `to_json` made; TypeError or ValueError if it is something else."""
        found = cls(**values)
        if not 0 <= found.failed <= found.requests:
            raise ValueError("more failed than there were")
        return found


class Tally:
    """The last requests of a version. Not for several threads at once."""

    def __init__(self) -> None:
        self._outcomes: deque[Outcome] = deque(maxlen=MOST)

    def add(self, outcome: Outcome) -> None:
        """Count a request."""
        self._outcomes.append(outcome)

    @property
    def figures(self) -> Figures:
        """What they show."""
        ttft = [each.ttft_ms for each in self._outcomes if each.ttft_ms is not None]
        tpot = [each.tpot_ms for each in self._outcomes if each.tpot_ms is not None]
        return Figures(
            requests=len(self._outcomes),
            failed=sum(each.failed for each in self._outcomes),
            ttft_ms=median(ttft) if len(ttft) >= _LEAST else None,
            tpot_ms=median(tpot) if len(tpot) >= _LEAST else None,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a trial: empty *reason* if the version is good, else why it is not."""

    reason: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the version stays."""
        return not self.reason


def judge(found: Figures, before: Figures, spec: TrialSpec) -> Verdict | None:
    """What *found* of the new version means beside that of the one *before*; None while it is too early.

    Failures end the trial as soon as no number of good answers could bring their share down within the trial; times are
    compared at its end.
    """
    allowed = (before.share_failed + spec.errors) * spec.requests
    if found.failed > allowed:
        was = f"before, {before.share_failed:.0%} failed"
        return Verdict(f"{found.failed} of {found.requests} requests failed; {was}, and {spec.errors:.0%} more may")
    if found.requests < spec.requests:
        return None
    for what, now, then, unnoticed in (
        ("time to the first token", found.ttft_ms, before.ttft_ms, _UNNOTICED_MS),
        ("time per further token", found.tpot_ms, before.tpot_ms, 0.0),
    ):
        if now is not None and then is not None and now > max(then * spec.latency, then + unnoticed):
            return Verdict(
                f"the median {what} rose from {then:.1f} to {now:.1f} ms; the limit is {spec.latency:g} times"
            )
    return Verdict()
