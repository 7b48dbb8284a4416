"""No text of a request is readable from an error: not from its frames, its causes, nor from what a backend raised.

`HYBRID_LLM_DEBUG_TRACEBACKS=1` in the environment switches all of this off, for debugging.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Callable
from functools import wraps
from types import FrameType, TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

from hybrid_llm.core.errors import out_of_files

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("hybrid_llm")

SWITCH: Final = "HYBRID_LLM_DEBUG_TRACEBACKS"
"""The environment variable that keeps frames and causes."""

_PACKAGE: Final = "hybrid_llm"
_OWN: Final = frozenset({_PACKAGE, "tenacity", "grpc"})
"""Packages whose frames may be cleared wherever they are; others may belong to the app."""
_CONTROL: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
_RESUMABLE: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def keeps_frames() -> bool:
    """Whether the switch for debugging is set."""
    return os.environ.get(SWITCH) == "1"


def is_fault(error: BaseException) -> bool:
    """Whether *error* is a failure, which a fallback answers, and not a request to stop.

    A panic of a library in Rust is a failure too, though it is no `Exception`; so is a `CancelledError` that a part of
    the app raises although nobody cancels this task.
    """
    return not isinstance(error, _CONTROL) or (isinstance(error, asyncio.CancelledError) and not _is_cancelled())


def _is_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread, so nothing can be cancelled
        return False
    return task is not None and task.cancelling() > 0


def scrub_traceback(error: BaseException) -> None:
    """Clear our frames in the tracebacks of *error*, its causes and contexts, unless they are still running.

    Their locals hold the texts of the request, which must not be readable from a traceback. So may an error that was
    caught inside: it is dropped as cause or context, unless it is one of ours. What the app itself is handling is left
    alone. An error and a frame that refer to each other would also stay alive until the garbage collector runs.
    """
    if keeps_frames():
        return
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            _clear(one.__traceback__)
            _drop_foreign(one)
            left += [one.__cause__, one.__context__]


def sever(error: BaseException) -> None:
    """Take from *error*, which a part of the app raised, everything but its own message: causes, notes, frames."""
    if keeps_frames():
        return
    error.__cause__ = error.__context__ = error.__traceback__ = None
    vars(error).pop("__notes__", None)


def guarded(work: Callable[[], R], what: str, warn: Callable[..., object] = _log.warning) -> R | None:
    """Return what *work*, a part of the app, returns; None if it fails, of which only the class is logged by *warn*."""
    try:
        return work()
    except BaseException as error:
        if not is_fault(error):
            raise
        warn("%s failed with %s", what, type(error).__name__)
        return None


def scrubbed(call: Callable[P, R]) -> Callable[P, R]:
    """*call*, a function or coroutine function of the app's interface, whose errors leave it scrubbed."""
    if inspect.iscoroutinefunction(call):
        return cast(Callable[P, R], _scrubbed_coroutine(call))

    @wraps(call)
    def scrubbing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except BaseException as error:
            if not keeps_frames():
                scrub_traceback(error)
                del args, kwargs  # this frame stays in the traceback
            if (typed := out_of_files(error)) is not None:
                raise typed from None
            raise

    return scrubbing


def _scrubbed_coroutine(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    async def scrubbing(*args: Any, **kwargs: Any) -> Any:
        try:
            return await call(*args, **kwargs)
        except BaseException as error:
            if not keeps_frames():
                scrub_traceback(error)
                del args, kwargs
            if (typed := out_of_files(error)) is not None:
                raise typed from None
            raise

    return scrubbing


def _drop_foreign(error: BaseException) -> None:
    if error.__cause__ is not None and _was_caught_inside(error.__cause__):
        suppressed = error.__suppress_context__
        error.__cause__ = None  # which also sets the flag
        error.__suppress_context__ = suppressed
    if error.__context__ is not None and _was_caught_inside(error.__context__):
        error.__context__ = None


def _was_caught_inside(error: BaseException) -> bool:
    """Whether *error* is not ours and was caught by our code, or was never raised."""
    if type(error).__module__.partition(".")[0] == _PACKAGE:
        return False
    return error.__traceback__ is None or _is_own(error.__traceback__.tb_frame)


def _is_own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _OWN


def _clear(trace: TracebackType | None) -> None:
    """Clear our frames, and those of what we called: libraries, and parts of the app such as its backends."""
    inside, before = False, trace
    while trace is not None:
        frame = trace.tb_frame
        inside = inside or _is_own(frame)
        if inside and before is not None and not _cleared(frame):
            before.tb_next = None
            return
        before, trace = trace, trace.tb_next


def _cleared(frame: FrameType) -> bool:
    """Whether the locals of *frame* are gone, or are its own business; a running one of ours cannot be cleared."""
    if not _is_own(frame) and frame.f_code.co_flags & _RESUMABLE:
        return False  # clearing would close a generator of the app that is still in use
    try:
        frame.clear()
    except RuntimeError:  # it is running
        return _is_own(frame)
    return True
