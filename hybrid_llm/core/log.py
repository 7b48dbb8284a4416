"""What people read of a client while it runs: the logger `hybrid_llm`, one WARNING for each change of state.

Names, addresses, counts and classes of errors only; never a text of a request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from hybrid_llm.core.signals import Breaker

log: Final = logging.getLogger("hybrid_llm")
"""The parent of all loggers of the library."""
REPEAT_S: Final = 60.0
"""The same event is a WARNING once in this time, seconds; in between it is INFO, and counted."""
_MOST_EVENTS: Final = 4096
"""Different events that are remembered."""


def breaker_log(name: str) -> Callable[[Breaker], None]:
    """What to call when the circuit breaker of *name*, a backend or an endpoint, opens or closes."""

    def changed(breaker: Breaker) -> None:
        if breaker is Breaker.OPEN:
            log.warning("%s: the circuit breaker opened after repeated failures; it gets no calls for now", name)
        else:
            log.warning("%s: the circuit breaker closed; it gets calls again", name)

    return changed


class Repeated:
    """Logs events that may occur with every request: once as a WARNING, then INFO and a count. Thread-safe.

    Args:
        every_s: The time in which an event is a WARNING once, seconds.
        between: The level of the event in between.
        logger: Where it is logged.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        every_s: float = REPEAT_S,
        between: int = logging.INFO,
        logger: logging.Logger = log,
    ) -> None:
        self._clock, self._every_s, self._between, self._logger = clock, every_s, between, logger
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._since: dict[str, int] = {}

    def failed(self, message: str, what: str, *args: object) -> None:
        """Log *message* with *what* and *args*; *what* failed identifies what repeats."""
        self.warn(what, message, what, *args)

    def warn(self, event: str, message: str, *args: object) -> None:
        """Log *message* with *args*; *event* identifies what repeats."""
        now = self._clock()
        with self._lock:
            if len(self._last) > _MOST_EVENTS:
                self._last.clear()
                self._since.clear()
            quiet = now - self._last.get(event, float("-inf")) < self._every_s
            count = self._since.get(event, 0)
            self._since[event] = count + 1 if quiet else 0
            if not quiet:
                self._last[event] = now
        if quiet:
            self._logger.log(self._between, message, *args)
        elif count:
            self._logger.warning(message + " (and %d more times since this was last a warning)", *args, count)
        else:
            self._logger.warning(message, *args)
