"""Calls the tools of one answer, side by side, and makes a step of each call, which the model can read.

A tool is code of the app: whatever one does, its own step says so, and the other calls have theirs.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import wait
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.signatures import bound
from hybrid_llm.core.threads import Pool, awaited, in_thread
from hybrid_llm.core.tools import ToolCall
from hybrid_llm.core.tracebacks import is_fault
from hybrid_llm.router.execution.answer import finish


class _Late(Exception):
    """A tool did not return in time."""

    def __str__(self) -> str:
        return "it did not return in time"


class _NoText(Exception):
    """What a tool returned can be written neither as text nor as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStep:
    """One call of one tool. Its texts never show in `repr`."""

    call: ToolCall
    backend: str
    """Which backend asked for it."""
    result: str = field(repr=False)
    """What the model was given: the result, or the error, as text."""
    error: str = ""
    """Why it failed: a reason of `ToolFailed`; empty if it did not."""
    elapsed_ms: float = 0.0


Begin = Callable[[], Coroutine[Any, Any, ToolStep]]
"""Calls one tool, and waits for its step."""


class Caller(Protocol):
    """How tools are called: from a thread that waits for them, or beside an event loop."""

    async def call(self, call: Callable[[], Any], timeout: float) -> str:
        """What the tool returns within so many seconds, as text.

        Raises:
            _Late: it has not returned.
            _NoText: what it returned is no text and no JSON. Else what the tool raises.
        """
        ...

    async def side_by_side(self, begins: Sequence[Begin], most: int) -> list[ToolStep]:
        """Begin all of them in their order, at most so many at a time; their steps, in that order."""
        ...


@dataclass(slots=True, kw_only=True)
class AnswerCalls:
    """Makes the steps of one answer of *backend*.

    Args:
        backend: What asked for the calls.
        caller: How a tool is called.
        timeout: Seconds that one call may take.
        expires: When the run ends, on `time.monotonic()`.
        all_or_none: Whether the failure of one ends the run: then no further one begins, since it may have effects.
    """

    backend: str
    caller: Caller
    timeout: float
    expires: float
    all_or_none: bool
    _is_over: bool = False

    async def steps(
        self, calls: Sequence[ToolCall], functions: Sequence[Callable[..., Any]], most: int
    ) -> list[ToolStep]:
        """The step of each call, whatever the tools do; at most *most* run at a time."""
        pairs = zip(calls, functions, strict=True)
        return await self.caller.side_by_side([partial(self._step, call, each) for call, each in pairs], most)

    async def _step(self, call: ToolCall, function: Callable[..., Any]) -> ToolStep:
        began = time.monotonic()
        result = reason = ""
        try:
            if self._is_over or self.expires <= began:
                raise _Late  # a tool may have effects: it is not called for nobody
            left = min(self.timeout, self.expires - began)
            result = await self.caller.call(lambda: function(**bound(function, call.values)), left)
        except BaseException as error:  # a tool may raise anything
            if not is_fault(error):
                raise
            reason = "late" if isinstance(error, _Late) else "result" if isinstance(error, _NoText) else "raised"
            result = f"error: {_said(error)}"
        self._is_over = self._is_over or (self.all_or_none and reason != "")
        elapsed_ms = (time.monotonic() - began) * 1e3
        return ToolStep(call=call, backend=self.backend, result=result, error=reason, elapsed_ms=elapsed_ms)


class HereCaller:
    """Calls tools for a synchronous caller, in threads; one that does not return in time is left behind."""

    async def call(self, call: Callable[[], Any], timeout: float) -> str:
        """See `Caller`."""
        work = in_thread("hybrid-llm-tool", lambda: _finished(call(), timeout))
        if wait([work], timeout).not_done:
            raise _Late
        return work.result()

    async def side_by_side(self, begins: Sequence[Begin], most: int) -> list[ToolStep]:
        """See `Caller`."""
        if len(begins) == 1:
            return [await begins[0]()]
        pool = Pool(min(most, len(begins)), "hybrid-llm-tools")
        try:
            works = [pool.submit(partial(copy_context().run, _made, begin)) for begin in begins]
            return [work.result() for work in works]
        finally:
            pool.close()


def _made(begin: Begin) -> ToolStep:
    return finish(begin())


def _finished(value: Any, timeout: float) -> str:
    """The text of *value*; what is to be awaited is cancelled after *timeout* seconds."""
    return asyncio.run(_within(timeout, value)) if inspect.isawaitable(value) else _text(value)


class LoopCaller:
    """Calls tools beside an event loop; those that are async, in it."""

    async def call(self, call: Callable[[], Any], timeout: float) -> str:
        """See `Caller`."""

        async def called() -> Any:
            value = await awaited(in_thread("hybrid-llm-tool", lambda: _begun(call())))
            return await value if inspect.isawaitable(value) else value

        return await _within(timeout, called())

    async def side_by_side(self, begins: Sequence[Begin], most: int) -> list[ToolStep]:
        """See `Caller`."""
        free = asyncio.Semaphore(most)

        async def one(begin: Begin) -> ToolStep:
            async with free:
                return await begin()

        return list(await asyncio.gather(*map(one, begins)))


def _begun(value: Any) -> Any:
    """*value*, if it is still to be awaited, else its text."""
    return value if inspect.isawaitable(value) else _text(value)


async def _within(timeout: float, value: Awaitable[Any]) -> str:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            result = await value
            if isinstance(result, str):
                return _text(result)
            return await awaited(in_thread("hybrid-llm-tool", lambda: _text(result)))
    except TimeoutError:  # perhaps the tool's own
        if not limit.expired():
            raise
    raise _Late


def _said(failure: BaseException) -> str:
    """What the model is told of *failure*, whose own text may fail too."""
    if isinstance(failure, _Late | _NoText):
        return str(failure)
    try:
        text = f"{type(failure).__name__}: {failure}"
    except Exception:  # noqa: BLE001  # code of the app
        text = type(failure).__name__
    return text.encode("utf-8", "replace").decode()


def _text(value: object) -> str:
    """The result *value* as the model sees it."""
    try:
        text = value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
        text.encode()
        return text
    except Exception as error:  # noqa: BLE001  # a result is an object of the app
        why = _said(error) if not isinstance(error, UnicodeError) else "its text is not Unicode"
    raise _NoText(f"what it returned is no text and no JSON: {why}")
