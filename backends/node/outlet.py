"""Where the outputs of one request wait for their reader, joined to one, so that a slow reader costs no memory."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace

from hybrid_llm.backends.node.engine import EngineDied, EngineFault, EngineOutput

__all__ = ["Outlet"]


class Outlet:
    """One reader, one writer, one event loop. What was put is read before a failure is raised."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._output: EngineOutput | None = None
        self._failure: EngineDied | None = None
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._on_expiry: Callable[[], None] = lambda: None
        self.finished = False
        """The engine has said its last word on this request."""

    def expire_at(self, instant: float, on_expiry: Callable[[], None]) -> None:
        """End with a deadline fault at *instant* of `time.monotonic()`, should the engine stay silent till then.

        *on_expiry* is called when that happens.
        """
        self._on_expiry = on_expiry
        if math.isfinite(instant):
            delay = max(0.0, instant - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def put(self, output: EngineOutput) -> None:
        """Add what the engine says. Nothing counts after the last output."""
        if self.finished:
            return
        self.finished = output.last
        self._add(output)

    def fail(self, failure: EngineDied) -> None:
        """The engine went away: raise *failure* once all outputs are read."""
        if not self.finished:
            self.finished = True
            self._failure = failure
            self._news.set()

    async def take(self) -> EngineOutput:
        """All that came since the last call, as one output; waits for it.

        Raises:
            EngineDied: the engine went away.
        """
        await self._news.wait()
        output, self._output = self._output, None
        if output is not None:
            if self._failure is None:
                self._news.clear()
            return output
        assert self._failure is not None
        raise self._failure

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _add(self, output: EngineOutput) -> None:
        token_ids = output.token_ids if self._output is None else self._output.token_ids + output.token_ids
        self._output = replace(output, request_id=self._request_id, token_ids=token_ids)
        self._news.set()

    def _expire(self) -> None:
        if not self.finished:
            fault = EngineFault(code="deadline", message="the deadline passed, and the engine did not answer")
            self._add(EngineOutput(request_id=self._request_id, error=fault))
            self._on_expiry()
