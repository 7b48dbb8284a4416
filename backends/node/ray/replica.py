"""What a replica does: it runs one engine for fronts that send it tokens. Without Ray, which `app` adds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import replace
from typing import Final, TypeVar, cast

from hybrid_llm.backends.node.engine import Engine, EngineDied, EngineFault, EngineOutput, EngineRequest
from hybrid_llm.backends.node.liveness import PULSE_S
from hybrid_llm.backends.node.ray import messages
from hybrid_llm.core.threads import Owned
from hybrid_llm.protos import engine_pb2 as pb

T = TypeVar("T")
_log = logging.getLogger(__name__)
_END: Final = object()
_LOOK_S: Final = 0.05
_HOLD_S: Final = 1.0
"""Seconds for which a call waits for an engine that restarts. So it counts as one that this replica is busy with, and
the balancer, which sends to the least busy, prefers the others."""
_UNKNOWN: Final = EngineFault(code="rejected", message="the request has fields of the wrong type")


class ReplicaService:
    """Serves *engine*, whose model has the tokenizer of that digest. One event loop."""

    def __init__(self, engine: Engine, *, tokenizer: str) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self.name: Final = secrets.token_hex(8)
        """A random name of this replica."""

    async def generate(self, message: pb.EngineRequest) -> AsyncGenerator[pb.EngineOutput, None]:
        """Yield the outputs of one request, and the replica's state each second without one.

        Closing the generator aborts the request. No failure of the engine is raised: an error in Serve's own log would
        come with a traceback.
        """
        if message.tokenizer != self._tokenizer or not await self._engine_ready():
            yield pb.EngineOutput(lost=True, state=self.state())
            return
        try:
            request = messages.request_from_wire(message)
        except messages.UnknownFields:
            _log.error("a front of a later version sends fields that this replica does not know: update the replicas")
            yield messages.output_to_wire(EngineOutput(request_id="", error=_UNKNOWN))
            return
        async with aclosing(self._outputs(request)) as outputs:
            async for output in outputs:
                yield output

    async def _outputs(self, request: EngineRequest) -> AsyncGenerator[pb.EngineOutput, None]:
        first = True
        try:
            async with aclosing(_pulsed(self._engine.stream(request), PULSE_S)) as outputs:
                async for output in outputs:
                    message = messages.output_to_wire(output) if output is not None else pb.EngineOutput()
                    if output is None or first:
                        message.state.CopyFrom(self.state())
                        first = False
                    yield message
        except EngineDied:
            yield pb.EngineOutput(lost=True, state=self.state())

    async def _engine_ready(self) -> bool:
        """Whether the engine can take a request now or in a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HOLD_S):
                while not self._engine.healthy:
                    await asyncio.sleep(_LOOK_S)
        return self._engine.healthy

    def state(self) -> pb.ReplicaState:
        """What the replica runs and how busy it is."""
        info, load = self._engine.info, self._engine.load()
        slots = load.slots or (info.slots if info is not None else 0)
        return messages.state_to_wire(
            self.name,
            replace(load, slots=slots),
            info,
            ready=self._engine.healthy,
            tokenizer=self._tokenizer,
        )


async def _pulsed(items: AsyncIterable[T], every: float) -> AsyncGenerator[T | None, None]:
    """Yield the *items*, and None after each *every* seconds without one; closing it closes them."""
    owned = Owned(items)
    try:
        while True:
            pending = asyncio.ensure_future(anext(owned, _END))
            try:
                while not (await asyncio.wait({pending}, timeout=every))[0]:
                    yield None
            finally:
                if not pending.done():
                    pending.cancel()
                    await asyncio.wait({pending})
            if (item := pending.result()) is _END:
                return
            yield cast(T, item)
    finally:
        await owned.aclose()
