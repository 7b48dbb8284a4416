"""What one source of signals is: a small reader of one thing that the system tells. No source lives here."""

from __future__ import annotations

import math
from typing import Final, Protocol

__all__ = ["MIB", "Source", "Value", "within"]

Value = float | bool | None
"""A signal's value; None is absent."""
MIB: Final = 1024 * 1024


class Source(Protocol):
    """One thing that the system tells; it is only ever read by one thread at a time."""

    @property
    def gives(self) -> tuple[str, ...]:
        """The signals that it reads, such as `device.battery`."""
        ...

    @property
    def every(self) -> float:
        """How often it is read, in intervals of the sampler."""
        ...

    def read(self) -> tuple[Value, ...]:
        """One value for each name in *gives*; it may block, which holds up nobody else."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


def within(value: float | None, least: float, most: float) -> float | None:
    """*value* where it can be true, None where no such device exists."""
    return value if value is not None and math.isfinite(value) and least <= value <= most else None
