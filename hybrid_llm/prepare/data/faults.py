"""What happens at a line that is no record: stop there, or count it and go on, up to a bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError

_LISTED: Final = 20
"""Lines that the figures name."""


@dataclass(slots=True)
class Faults:
    """The broken lines of all sources, by where they are and why; never with their text.

    Attributes:
        skip: go on behind a broken line.
        most: how many lines may be broken.
    """

    skip: bool
    most: int
    reasons: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, source: str, number: int, reason: str) -> None:
        """Count a broken line.

        Raises:
            ConfigError: the preparation shall stop there, or there are too many.
        """
        where = f"{source}:{number}" if number else source
        self.reasons[reason] += 1
        if len(self.lines) < _LISTED:
            self.lines.append(f"{where}: {reason}")
        if not self.skip:
            message = f"{where}: {reason}: correct it, or skip such lines by `on_error: skip`"
            raise ConfigError(message, path=source)
        if self.reasons.total() > self.most:
            common, times = self.reasons.most_common(1)[0]
            raise ConfigError(
                f"{where}: more than {self.most} broken lines ({times} times: {common}): check the format and columns, "
                "or raise `max_errors`",
                path=source,
            )

    def to_json(self) -> dict[str, Any]:
        """The figures as `data.json` has them."""
        return {"lines": self.reasons.total(), "reasons": dict(sorted(self.reasons.items())), "first": self.lines}
