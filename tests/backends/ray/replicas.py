"""Replicas behind a real gRPC server that picks the least busy one, as HAProxy does, and can take them away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from itertools import count
from typing import Any

import grpc.aio

from hybrid_llm.backends.node.engine import (
    EngineConfig,
    EngineDied,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from hybrid_llm.backends.node.liveness import StallLimits
from hybrid_llm.backends.node.ray.messages import tokenizer_digest
from hybrid_llm.backends.node.ray.remote import ReplicatedEngine
from hybrid_llm.backends.node.ray.replica import ReplicaService
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.protos import engine_pb2 as pb
from hybrid_llm.protos.engine_pb2_grpc import add_ReplicaServicer_to_server


def next_token(tokens):
    """A model: the next token depends on all before it."""
    return (31 * sum(tokens[-3:]) + 7 * len(tokens)) % 199 + 1


def whole_answer(request: EngineRequest) -> list[int]:
    tokens = list(request.prompt_ids)
    for _ in range(request.max_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(request.prompt_ids) :]


class Arithmetic:
    """An `Engine` whose model is `next_token`; it stops to answer while *gate* is not set.

    It also stops while the answer has as many tokens as a number in *stops*.
    """

    def __init__(self, *, slots=4, fault: EngineFault | None = None, stops: Collection[int] = ()) -> None:
        self.info = EngineInfo(
            engine="fake", model="m", architecture="A", vocab_size=256, context_window=4096, slots=slots
        )
        self.healthy, self.fault = True, fault
        self.gate = asyncio.Event()
        self.gate.set()
        self.stops = stops
        self.active, self.seen, self.aborted = 0, [], 0

    async def start(self) -> EngineInfo:
        return self.info

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        self.seen.append(request)
        self.active += 1
        done = False
        try:
            if self.fault is not None:
                yield EngineOutput(request_id=request.request_id, error=self.fault)
                return
            tokens = list(request.prompt_ids)
            for drawn in range(request.answered, request.answered + request.max_tokens):
                await self.gate.wait()
                await asyncio.sleep(0)
                await until(lambda drawn=drawn: drawn not in self.stops)
                if not self.healthy:
                    raise EngineDied("the engine process ended")
                tokens.append(next_token(tokens))
                yield EngineOutput(request_id=request.request_id, token_ids=(tokens[-1],), queue_ms=1.5)
            yield EngineOutput(request_id=request.request_id, finish_reason=FinishReason.LENGTH, queue_ms=1.5)
            done = True
        finally:
            self.active -= 1
            self.aborted += not done

    def load(self) -> EngineLoad:
        return EngineLoad(active=self.active, waiting=1, slots=self.info.slots)

    async def close(self) -> None:
        self.healthy = False


class Balancer:
    """Serves the internal service for all replicas that are there. *most* streams at a time in one connection."""

    def __init__(self, engines, *, tokenizer: str, most: int = 100) -> None:
        self.services: dict[Arithmetic, ReplicaService] = {}
        self.busy: dict[Arithmetic, int] = {}
        self._last: dict[Arithmetic, int] = {}
        self._turns = count()
        for engine in engines:
            self.add(engine, tokenizer=tokenizer)
        self.calls: set[tuple[Arithmetic, asyncio.Task[Any]]] = set()
        self.turned_away: grpc.StatusCode | None = None
        self._most = most
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        options = [("grpc.max_concurrent_streams", self._most), ("grpc.so_reuseport", 0)]
        # HAProxy does not mind how often a client asks whether it is there.
        options += [(f"grpc.http2.min_{kind}ping_interval_without_data_ms", 1000) for kind in ("", "recv_")]
        self._server = grpc.aio.server(options=options)
        add_ReplicaServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Cut every connection."""
        if self._server is not None:
            await self._server.stop(0)

    def add(self, engine: Arithmetic, *, tokenizer: str) -> None:
        """A replica more."""
        self.services[engine] = ReplicaService(engine, tokenizer=tokenizer)
        self.busy[engine], self._last[engine] = 0, -1

    def kill(self, engine: Arithmetic) -> None:
        """The replica is gone with all its streams."""
        del self.services[engine]
        for owner, task in list(self.calls):
            if owner is engine:
                task.cancel()

    @contextlib.contextmanager
    def _picked(self):
        # HAProxy's checks have found which are not healthy.
        engine = min(self.services, key=lambda each: (not each.healthy, self.busy[each], self._last[each]))
        self._last[engine] = next(self._turns)
        entry = (engine, asyncio.current_task())
        self.busy[engine] += 1
        self.calls.add(entry)
        try:
            yield engine, self.services[engine]
        finally:
            self.busy[engine] -= 1
            self.calls.discard(entry)

    async def _admit(self, context: Any) -> None:
        if self.turned_away is not None:
            await context.abort(self.turned_away, "turned away")
        if not self.services:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no replica")

    async def Generate(self, request, context) -> AsyncIterator[pb.EngineOutput]:  # noqa: N802
        await self._admit(context)
        with self._picked() as (engine, service):
            try:
                async with contextlib.aclosing(service.generate(request)) as outputs:
                    async for output in outputs:
                        yield output
            except asyncio.CancelledError:
                if engine in self.services:
                    raise
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the replica is gone")

    async def Describe(self, request, context) -> pb.ReplicaState:  # noqa: N802
        await self._admit(context)
        with self._picked() as (_, service):
            return service.state()


@contextlib.asynccontextmanager
async def served(folder, *engines, stall=15.0, load=30.0, most=100):
    """A balancer over *engines*, and the front's engine, started."""
    balancer = Balancer(engines, tokenizer=tokenizer_digest(folder), most=most)
    await balancer.start()
    front = ReplicatedEngine(config(folder, balancer.port, stall=stall, load=load), on_progress=lambda _: None)
    try:
        await front.start()
        yield balancer, front
    finally:
        await front.close()
        await balancer.stop()


def config(folder, port, *, stall=15.0, load=30.0) -> EngineConfig:
    limits = StallLimits(stall=stall, load=load)
    return EngineConfig(model=folder, engine="ray", replicas=f"127.0.0.1:{port}", limits=limits)


async def until(condition, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def tokens_of(front, request) -> list[int]:
    """The tokens of an answer that ends well."""
    outputs = [output async for output in front.stream(request)]
    assert [output.last for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert outputs[-1].error is None
    assert {output.request_id for output in outputs} == {request.request_id}
    return [token for output in outputs for token in output.token_ids]
