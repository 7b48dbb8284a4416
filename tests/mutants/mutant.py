"""What a planted fault is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Mutant"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """In *file* of the room, *old* (there exactly once) becomes *new*: *what* this means."""

    what: str
    file: str
    old: str
    new: str
