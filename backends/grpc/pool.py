"""Several nodes as one backend: each call goes to one endpoint, and none twice before all that can be were called once.

It picks, ejects and drains; it retries nothing. Retries, hedges and continuations are decided in
`router.execution.attempts`, which learns from `BackendState.nodes` how many endpoints there are.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from typing import Final

from hybrid_llm.backends.grpc.address import GrpcConfig, Resolver
from hybrid_llm.backends.grpc.backend import NO_ROUTE, SILENT, GrpcBackend, state_of
from hybrid_llm.backends.grpc.exchange import NodeDescription
from hybrid_llm.backends.grpc.picker import Picker, blocks_of
from hybrid_llm.backends.wire.handshake import Lookup
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import BackendUnavailable, HybridLLMError
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.health import BackendHealth
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState, EndpointHealth, EndpointState
from hybrid_llm.core.threads import Owned

_REMEMBERED: Final = 1024
"""Requests at a time, 0.3 MB; more than an app has running."""


class _CalledEndpoints:
    """The addresses that requests have called, so that another attempt goes elsewhere. Thread-safe.

    A request is forgotten with its answer. Of one whose callers leave it nothing is heard: the oldest are forgotten.
    """

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, request: Request) -> tuple[str, ...]:
        """Those that *request* has called."""
        return self._addresses.get(request.request_id, ())

    def add(self, request: Request, address: str) -> None:
        """*request* calls *address*."""
        if request.request_id:
            with self._lock:
                self._addresses[request.request_id] = (*self.of(request), address)
                while len(self._addresses) > _REMEMBERED:
                    self._addresses.popitem(last=False)

    def forget(self, request: Request) -> None:
        """*request* is answered, or begins again."""
        with self._lock:
            self._addresses.pop(request.request_id, None)


class GrpcPool:
    """A cloud backend of several endpoints, each over its own mutual TLS. Nothing is opened before the first call.

    Args:
        configs: One for each node, or one whose host is a name that resolves to several.
        name: The name that policies use.
        clock: Seconds, never backwards.
        lookup: Resolves names.

    Raises:
        ConfigError: for any node, what `GrpcBackend` raises.
    """

    location: Final = Location.CLOUD
    count_tokens = staticmethod(estimate_tokens)
    """An estimate: the tokenizers are on the nodes."""

    def __init__(
        self,
        configs: Sequence[GrpcConfig],
        *,
        name: str = "cloud",
        clock: Callable[[], float] = time.monotonic,
        lookup: Lookup | None = None,
    ) -> None:
        self.name = name
        self._lookup = lookup or Lookup()
        self._clock = clock
        self._picker = Picker()
        self._endpoints: dict[str, GrpcBackend] = {}
        self._called = _CalledEndpoints()
        self._lock = threading.Lock()
        self._closed = False
        self._seals = all(config.sealed is not None for config in configs)
        self.endpoint_health = BackendHealth(lambda: [endpoint.health for endpoint in self._endpoints.values()])
        """The health of the endpoints together, for the router."""
        self._resolver = Resolver(configs, lookup=self._lookup, clock=clock)
        self._update(self._resolver.endpoints)

    def _update(self, configs: Sequence[GrpcConfig]) -> None:
        """Add new endpoints, and close those that no name resolves to any more, once they are idle."""
        with self._lock:
            old, wanted = self._endpoints, {config.target: config for config in configs}
            # An endpoint that is still busy is closed at a later look-up.
            kept = {target: each for target, each in old.items() if target in wanted or each.busy}
            new = {
                target: GrpcBackend(config, on_unreachable=self._suspect_all, lookup=self._lookup, clock=self._clock)
                for target, config in wanted.items()
                if target not in old and not self._closed
            }
            self._endpoints = kept | new  # a new dict: other threads iterate over the old one
        self.endpoint_health.refresh()
        for target in old.keys() - kept.keys():
            old[target].close()

    def expiries(self) -> dict[str, float]:
        """When the files of this app for the nodes expire, the first of each kind."""
        found: dict[str, float] = {}
        for endpoint in self._endpoints.values():
            for what, instant in endpoint.expiries().items():
                found[what] = min(instant, found.get(what, instant))
        return found

    @property
    def capabilities(self) -> Capabilities:
        """What every endpoint can do: the least of them."""
        known = [endpoint.capabilities for endpoint in self._endpoints.values()]
        window = min(filter(None, (each.context_window for each in known)), default=0)
        return Capabilities(
            model=known[0].model if known else "",
            context_window=window,
            output_schema=True,
            tools=True,
            draws=any(each.draws for each in known),
            logprobs=all(each.logprobs for each in known),
            penalties=all(each.penalties for each in known),
            priorities=all(each.priorities for each in known),
            parent=next((each.parent for each in known if each.parent), ""),
        )

    def state(self) -> BackendState:
        """All endpoints together: their work is added up, the nearest gives the round-trip time."""
        endpoints = self._endpoints.values()
        silence = _silence({endpoint.why_not_ready() for endpoint in endpoints})
        return state_of(endpoints, name=self.name, reason="closed" if self._closed else silence)

    def members(self) -> tuple[EndpointState, ...]:
        """The state of each endpoint, in the order of the configuration."""
        return tuple([endpoint.endpoint_state() for endpoint in self._endpoints.values()])

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer in chunks, from an endpoint that this request has not called. Raises as `GrpcBackend.stream` does."""
        request = require_clearance(cleared, Location.CLOUD, seals=self._seals)
        endpoint = self._pick(request, self._resolver.refresh(request.remaining()))
        with closing(endpoint.stream(cleared)) as chunks:
            for chunk in chunks:
                self._note(chunk, request)
                yield chunk

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Do as `stream` does, without blocking the event loop."""
        request = require_clearance(cleared, Location.CLOUD, seals=self._seals)
        endpoint = self._pick(request, await self._resolver.arefresh(request.remaining()))
        async with aclosing(Owned(endpoint.astream(cleared))) as chunks:
            async for chunk in chunks:
                self._note(chunk, request)
                yield chunk

    def _note(self, chunk: Chunk, request: Request) -> None:
        """Forget a request that is answered; before its last chunk is yielded, since the consumer may stop there."""
        if chunk.finish_reason is not None:
            self._called.forget(request)

    def _suspect_all(self, since: float) -> None:
        """One endpoint is unreachable, so the network may be down: probe all before requests wait for them."""
        for endpoint in self._endpoints.values():
            endpoint.suspect(since)

    def _pick(self, request: Request, configs: Sequence[GrpcConfig] | None) -> GrpcBackend:
        if configs is not None:
            self._update(configs)
        called = self._called.of(request)
        candidates = _best([endpoint for endpoint in self._endpoints.values() if endpoint.address not in called])
        if not candidates and called:  # all that can be called have been: begin again
            self._called.forget(request)
            candidates = _best(tuple(self._endpoints.values()))
        if not candidates:
            message = f"{self.name}: none of {len(self._endpoints)} endpoints can be called now"
            raise BackendUnavailable(message, backend=self.name, reason="not_ready")
        endpoint = self._picker.pick(candidates, blocks_of(request) if len(self._endpoints) > 1 else ())
        self._called.add(request, endpoint.address)
        return endpoint

    def probe(self, *, timeout: float = 5.0) -> NodeDescription:
        """Request the description of each node, within *timeout* seconds each; return that of the nearest.

        Raises:
            BackendError, SecurityError: no node answered; this is the error of the last one.
        """
        found: list[NodeDescription] = []
        failure: HybridLLMError = BackendUnavailable(
            f"{self.name} has no endpoints", backend=self.name, reason="not_ready"
        )
        for endpoint in self._endpoints.values():
            try:
                found.append(endpoint.probe(timeout=timeout))
            except HybridLLMError as error:
                failure = error
        if not found:
            raise failure
        return min(found, key=lambda node: node.rtt_ms)

    def abort(self, request_id: str) -> None:
        """Cancel the calls of this request, on every endpoint; from any thread."""
        for endpoint in self._endpoints.values():
            endpoint.abort(request_id)

    def close(self) -> None:
        """End running calls with `BackendUnavailable`; further ones end the same way. Idempotent."""
        self._closed = True
        for endpoint in self._endpoints.values():
            endpoint.close()

    async def aclose(self) -> None:
        """Do as `close` does, and close the running event loop's channels."""
        self._closed = True
        for endpoint in self._endpoints.values():
            await endpoint.aclose()


def _silence(reasons: set[str]) -> str:
    """Why none of the endpoints responds, of which these are the reasons; empty where one of them may."""
    if not reasons or not reasons <= {SILENT, NO_ROUTE}:
        return ""
    return SILENT if SILENT in reasons else NO_ROUTE


def _best(endpoints: Sequence[GrpcBackend]) -> Sequence[GrpcBackend]:
    """The usable ones; where there are none, as a last resort, those that can be reached; else all that may respond."""
    usable = [each for each in endpoints if each.health.health.is_usable and each.health.admits]
    ready = [] if usable else [each for each in endpoints if not each.why_not_ready()]
    return usable or [each for each in ready if each.health.health is not EndpointHealth.UNREACHABLE] or ready
