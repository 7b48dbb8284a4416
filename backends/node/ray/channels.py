"""The front's connections to the balancer before the replicas: plaintext, inside one private network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import contextmanager
from typing import Final, TypeVar

import grpc.aio
from grpc import StatusCode

from hybrid_llm.backends.node.engine import EngineFault
from hybrid_llm.backends.node.ray.answer import LostReplica
from hybrid_llm.backends.wire.channels import MAX_MESSAGE_BYTES, aio_channel, client_options
from hybrid_llm.backends.wire.handshake import Address
from hybrid_llm.backends.wire.reading import EOF, read
from hybrid_llm.core.tracebacks import is_fault
from hybrid_llm.protos import engine_pb2 as pb
from hybrid_llm.protos.engine_pb2_grpc import ReplicaStub

T = TypeVar("T")
_ANSWER_S: Final = 2.0
"""Seconds in which a replica says what it runs."""
_STREAMS: Final = 90
"""Streams of one connection: HAProxy, as Ray Serve configures it, takes a hundred, and holds back further ones."""


class ReplicaChannels:
    """Connections to *address*: one for questions, and as many for streams as these need. One event loop."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: dict[ReplicaStub, int] = {}
        self._opened: list[grpc.aio.Channel] = []
        self._asking: Final = self._open()

    async def describe(self) -> pb.ReplicaState | None:
        """What one replica says of itself; None if it says that it is full.

        Raises:
            LostReplica: nobody has answered.
        """
        try:
            return await _uncancelled(self._asking.Describe(pb.DescribeRequest(), timeout=_ANSWER_S))
        except grpc.aio.AioRpcError as error:
            if error.code() is StatusCode.RESOURCE_EXHAUSTED:
                return None
            raise LostReplica from None

    async def generate(
        self, message: pb.EngineRequest, *, timeout: float | None, stall: float
    ) -> AsyncGenerator[pb.EngineOutput | EngineFault, None]:
        """Yield what a replica sends, until it ends, or the fault that ended the call; closing it cancels the call.

        Args:
            message: The request.
            timeout: Seconds for all of it.
            stall: Seconds in which the next message must come; a replica sends one each second.

        Raises:
            LostReplica: the call has failed so that another replica may go on.
        """
        with self._stub() as stub:
            call = stub.Generate(message, timeout=timeout)
            try:
                while True:
                    async with asyncio.timeout(stall):
                        reply = await _uncancelled(read(call))
                    if reply is EOF:
                        return
                    yield reply
            except TimeoutError:
                raise LostReplica from None
            except grpc.aio.AioRpcError as error:
                if (fault := _FAULTS.get(error.code())) is None:
                    raise LostReplica from None
                yield fault
            finally:
                call.cancel()

    @contextmanager
    def _stub(self) -> Generator[ReplicaStub, None, None]:
        """A connection with room for one stream more."""
        stub = next((each for each, count in self._streams.items() if count < _STREAMS), None) or self._open()
        self._streams[stub] = self._streams.get(stub, 0) + 1
        try:
            yield stub
        finally:
            self._streams[stub] -= 1

    def _open(self) -> ReplicaStub:
        options = client_options(max_message_bytes=8 * MAX_MESSAGE_BYTES)
        # A name may have one address for each machine that runs the balancer.
        channel = aio_channel(str(self._address), None, [*options, ("grpc.lb_policy_name", "round_robin")])
        self._opened.append(channel)
        return ReplicaStub(channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """End all calls."""
        for channel in self._opened:
            await channel.close(None)


_FAULTS: Final = {
    StatusCode.DEADLINE_EXCEEDED: EngineFault(code="deadline", message="the deadline passed"),
    StatusCode.RESOURCE_EXHAUSTED: EngineFault(
        code="overloaded", message="too many requests are waiting for this engine"
    ),
}
"""What ends a request whose call ended so."""


async def _uncancelled(reply: Awaitable[T]) -> T:
    """Await *reply*: a call that ended as cancelled is a lost replica, unless it is this task that is cancelled."""
    try:
        return await reply
    except asyncio.CancelledError as error:
        if not is_fault(error):
            raise
        raise LostReplica from None
