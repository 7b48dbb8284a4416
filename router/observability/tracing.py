"""What follows a request while it runs: the interface between the path of a request and OpenTelemetry.

Where no hook traces, a request has no trace, and its path is what it is without this module.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hybrid_llm.core.clearance import Cleared
    from hybrid_llm.core.decision import Decision
    from hybrid_llm.core.generation import Chunk
    from hybrid_llm.core.protocols import Backend
    from hybrid_llm.core.request import Location, PartialAnswer, RequestMetadata

Step = Literal["guard", "decide"]
"""A step before the first call: the privacy guard, or signals and policy together."""
Call = Callable[[str, "PartialAnswer"], AsyncGenerator["Chunk", None]]
"""Starts one attempt, of the backend of this name."""
Open = Callable[["Backend", "Cleared"], AsyncGenerator["Chunk", None]]
"""Starts the stream of a backend, within an attempt."""


class RequestTrace(Protocol):
    """Follows one request. It ends with the request's event, or with `failed` where routing raised."""

    def enter(self, step: Step) -> None:
        """This *step* begins; the one before it, if any, is over."""

    def routed(
        self,
        metadata: RequestMetadata,
        decision: Decision,
        allowed: frozenset[Location],
        backends: Mapping[str, Backend],
    ) -> None:
        """The request is assessed and decided: it may go to the *allowed* locations."""

    def failed(self, error: BaseException) -> None:
        """Routing raised *error*: there will be no event."""

    def attempts(self, call: Call) -> Call:
        """*call*, which shows in the trace."""

    def opens(self, open_stream: Open) -> Open:
        """*open_stream*, which shows in the trace, and which passes on where the call stands in it."""
