"""Going on with an answer on a server that cannot continue a message: it is asked to, and watched at the seam."""

from __future__ import annotations

from typing import Final

GO_ON: Final = (
    "Your last message above was cut off. Write what comes next, beginning with the very next character: "
    "repeat nothing, and explain nothing."
)
"""Asks a server that cannot continue a message to go on with it."""
_SEAM: Final = 200
"""Characters at the end of a partial answer in which a repetition is looked for."""
_LEAST: Final = 4
"""Fewer characters in common are chance."""


class Seam:
    """Cuts what an answer repeats of the end of the *partial* answer that it goes on with; of none, it cuts nothing."""

    def __init__(self, partial: str = "") -> None:
        end = partial[-_SEAM:]
        self._ends = [end[at:] for at in range(len(end) - _LEAST + 1)]
        """What a repetition can be, longest first."""
        self._held = ""

    def join(self, text: str) -> str:
        """What can be passed on once *text* has come: it is held back for as long as it may be a repetition."""
        if not self._ends or not text:
            return text
        self._held += text
        if any(len(end) > len(self._held) and end.startswith(self._held) for end in self._ends):
            return ""
        return self.rest()

    def rest(self) -> str:
        """What is held back, without a repetition; nothing is held back any more."""
        repeated = next((end for end in self._ends if self._held.startswith(end)), "")
        text, self._held, self._ends = self._held.removeprefix(repeated), "", []
        return text
