"""Where a call stands in a trace, as the header `traceparent` of W3C Trace Context has it; nothing here traces.

It is all of a trace that leaves with a request: ids and a flag. `tracestate` and `baggage`, which may hold anything, do
not.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final

TRACEPARENT: Final = "traceparent"
"""The name of the header, and of gRPC's metadata."""
CALLER: Final[ContextVar[str]] = ContextVar("hybrid_llm_traceparent", default="")
"""The `traceparent` that a caller over HTTP sent with the current request, unchecked; empty if there is none."""
_FORM: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_headers(traceparent: str) -> tuple[tuple[str, str], ...]:
    """The header that a call with this *traceparent* sends; none where there is no trace, or it has another form."""
    return ((TRACEPARENT, traceparent),) if _FORM.fullmatch(traceparent) else ()
