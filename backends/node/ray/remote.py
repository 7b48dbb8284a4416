"""The front's side: an `Engine` whose replicas run elsewhere, behind one address that balances calls among them.

An answer that breaks off, since its replica was killed or hangs, goes on at another replica from its last token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from hybrid_llm.backends.node.engine import (
    EngineConfig,
    EngineDied,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from hybrid_llm.backends.node.ray import messages
from hybrid_llm.backends.node.ray.answer import LostReplica, PartialTokens
from hybrid_llm.backends.node.ray.fleet import Fleet
from hybrid_llm.backends.wire.handshake import Address
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.threads import Owned
from hybrid_llm.protos import engine_pb2 as pb

if TYPE_CHECKING:
    from hybrid_llm.backends.node.ray.channels import ReplicaChannels

_log = logging.getLogger(__name__)
_PAUSES: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Seconds before each further attempt without a new token: about as long as a balancer takes to drop a dead replica."""
_RETRY_AFTER_S: Final = 1.0
_GRACE_S: Final = 1.0
"""Seconds after a request's deadline at which the front ends it if the replica has not."""
_ASK_S: Final = 1.0
_ASK_AGAIN_S: Final = 0.25
_MOST_ASKED: Final = 16
"""Questions at a time; the balancer sends each to another replica."""


class ReplicatedEngine:
    """The replicas at `config.replicas` as one engine. Its `load` and slots are those of all of them.

    Raises:
        ConfigError: the configuration names no address of replicas, or the model folder has no tokenizer.
    """

    def __init__(self, config: EngineConfig, *, on_progress: Callable[[str], None]) -> None:
        if not config.replicas:
            raise ConfigError("the engine `ray` needs --replicas HOST:PORT, where Ray Serve answers gRPC (port 9000)")
        self._address = Address.parse(config.replicas)
        self._config = config
        self._on_progress = on_progress
        self._tokenizer = messages.tokenizer_digest(config.model)
        self._fleet = Fleet(self._tokenizer)
        self._channels: ReplicaChannels | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed = False
        self.continuations = 0
        """How often a request was sent to another replica, since the first was lost."""

    @property
    def info(self) -> EngineInfo | None:
        """What the replicas run, with the slots of all; None until one was there."""
        return self._fleet.info

    @property
    def healthy(self) -> bool:
        """Whether a replica can take a request."""
        return self._fleet.ready > 0

    @property
    def replicas(self) -> int:
        """How many replicas can take a request."""
        return self._fleet.ready

    async def start(self) -> EngineInfo:
        """Connect, and wait until a replica is ready, for at most `limits.load` seconds.

        Raises:
            ConfigError: the replicas' model has another tokenizer.
            EngineDied: there was none in time, or `start` was called before.
        """
        if self._channels is not None or self._closed:
            raise EngineDied("this engine was started before: make a new one")
        # gRPC must not be imported before the node requires TLS 1.3 of it.
        from hybrid_llm.backends.node.ray.channels import ReplicaChannels

        self._channels = ReplicaChannels(self._address)
        try:
            async with asyncio.timeout(self._config.limits.load):
                await self._first()
        except TimeoutError:
            await self.close()
            raise EngineDied(f"no replica at {self._address} was ready in time") from None
        except BaseException:
            await self.close()
            raise
        self._watch = asyncio.create_task(self._ask_for_ever(), name="replicas")
        assert self.info is not None
        return self.info

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Generate; what a lost replica has answered is not repeated. Closing the generator aborts the request.

        Raises:
            EngineDied: no replica is ready, or none could go on.
        """
        if not self.healthy:
            raise EngineDied("the engine is not running", retry_after=_RETRY_AFTER_S)
        answer = PartialTokens(request)
        pauses = iter(_PAUSES)
        while True:
            before = len(answer.tokens)
            try:
                async with aclosing(self._attempt(answer)) as outputs:
                    async for output in outputs:
                        yield output
                return
            except LostReplica:
                pauses = iter(_PAUSES) if len(answer.tokens) > before else pauses
                await self._pause(next(pauses, None), answer)

    async def _pause(self, seconds: float | None, answer: PartialTokens) -> None:
        """Wait before the next attempt; raises EngineDied if there should be none."""
        if self._closed or seconds is None or not (self.healthy or answer.tokens):
            raise EngineDied("the engine crashed in the middle of this answer", retry_after=_RETRY_AFTER_S)
        self.continuations += 1
        _log.warning("a replica was lost; its request goes on elsewhere, from token %d", len(answer.tokens))
        await asyncio.sleep(seconds)

    async def _attempt(self, answer: PartialTokens) -> AsyncGenerator[EngineOutput, None]:
        """The rest of the answer, from whichever replica the balancer chooses; LostReplica if it does not end."""
        if (end := answer.end(time.monotonic())) is not None:
            yield end
            return
        try:
            message = messages.request_to_wire(answer.rest(), tokenizer=self._tokenizer)
        except (TypeError, ValueError, AttributeError):
            yield answer.failed(EngineFault(code="rejected", message="the request has fields of the wrong type"))
            return
        async with aclosing(self._outputs(message, answer)) as outputs:
            async for output in outputs:
                yield output

    async def _outputs(self, message: pb.EngineRequest, answer: PartialTokens) -> AsyncGenerator[EngineOutput, None]:
        if self._channels is None:
            raise LostReplica
        timeout = message.expires_in + _GRACE_S if message.expires_in else None
        replies = self._channels.generate(message, timeout=timeout, stall=self._config.limits.stall)
        async with aclosing(Owned(replies)) as sent:
            async for reply in sent:
                if isinstance(reply, EngineFault):
                    yield answer.failed(reply)
                    return
                if reply.HasField("state"):
                    self._fleet.heard(reply.state, time.monotonic())
                if (output := answer.take(reply)) is not None:
                    yield output
                    if output.last:
                        return
        raise LostReplica

    def load(self) -> EngineLoad:
        """How busy the replicas were when they were last heard of; no I/O."""
        return self._fleet.load()

    async def close(self) -> None:
        """Disconnect; streams in flight end with `EngineDied`. The replicas run on. Idempotent."""
        self._closed = True
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.close()

    async def _first(self) -> None:
        self._on_progress(f"waiting for a replica at {self._address}")
        while not self.healthy:
            await self._ask()
            if self._fleet.strangers and not self.healthy:
                raise ConfigError(
                    f"the replicas at {self._address} serve a model with another tokenizer than {self._config.model}: "
                    "give the folder of the model that they serve",
                    path=str(self._config.model),
                )
            await asyncio.sleep(0.0 if self.healthy else _ASK_AGAIN_S)

    async def _ask_for_ever(self) -> None:
        while True:
            before = len(self._fleet)
            await self._ask()
            settled = self.healthy and len(self._fleet) <= before
            await asyncio.sleep(_ASK_S if settled else _ASK_AGAIN_S)

    async def _ask(self) -> None:
        """Ask one replica more than are known, so that new ones are found."""
        count = min(len(self._fleet) + 1, _MOST_ASKED)
        if not any(await asyncio.gather(*(self._describe() for _ in range(count)))):
            self._fleet.unanswered()
        self._fleet.forget(time.monotonic())

    async def _describe(self) -> bool:
        """Whether a replica has answered."""
        assert self._channels is not None
        try:
            state = await self._channels.describe()
        except LostReplica:
            return False
        if state is None:
            self._fleet.full()
        else:
            self._fleet.heard(state, time.monotonic())
        return True
