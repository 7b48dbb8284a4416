"""What an error holds on to: the frames that it came through, and with them the texts of its request."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType

_OWN = frozenset({"hybrid_llm", "tenacity", "grpc"})
"""The packages whose frames are emptied. Others belong to the app, and may be those of a generator that goes on."""


def scrub_traceback(error: BaseException) -> None:
    """Empty our frames that *error*, and what led to it, came through; those that still run stay as they are.

    They hold the texts of the request, which nobody may read out of a traceback, and would keep them alive: an error
    and a frame that hold each other stay until the garbage collector finds them.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            _empty(one.__traceback__)
            left += [one.__cause__, one.__context__]


def _empty(trace: TracebackType | None) -> None:
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _OWN:
            with suppress(RuntimeError):  # it runs
                frame.clear()
