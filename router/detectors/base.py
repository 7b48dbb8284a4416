"""What a detector is: it finds one kind of sensitive text and says where; what follows it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Detector", "Finding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Where something was found: *start* and *end* are character offsets, *kind* what it is.

    A kind is a name, such as `email` or `person_name`, never a piece of the text: it shows in pseudonyms.
    """

    kind: str
    start: int
    end: int


class Detector(Protocol):
    """Finds one kind of sensitive text. One that raises makes the request local-only."""

    @property
    def name(self) -> str:
        """The name that a policy's `detect` uses."""
        ...

    def find(self, text: str) -> Iterator[Finding]:
        """Yield what is found in *text*, in order."""
        ...
