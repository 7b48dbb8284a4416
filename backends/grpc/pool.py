"""Several nodes as one backend: each call goes to one of them, and none is asked twice for the same request.

It chooses, ejects and drains; it retries nothing. Who is called again, hedged or continued is decided in
`router.execution.attempts`, which knows how many nodes there are from `BackendState.nodes`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from typing import Final

from hybrid_llm.backends.grpc.address import Names
from hybrid_llm.backends.grpc.backend import NO_WAY, SILENT, GrpcBackend
from hybrid_llm.backends.grpc.config import GrpcConfig, NodeDescription
from hybrid_llm.backends.grpc.picker import Chooser, blocks_of
from hybrid_llm.backends.wire.handshake import Lookup
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import BackendError, BackendOverloaded, BackendUnavailable, DeadlineExceeded, HybridLLMError
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState, Breaker, EndpointHealth, EndpointState

_FAILURES: Final = 2
_EJECTED_S: Final = 5.0
_WEIGHT: Final = 0.2
_HALF_LIFE_S: Final = 10.0
_REMEMBERED: Final = 4096


@dataclass(slots=True, eq=False)
class _Node:
    """One node of the pool, and what its calls have shown."""

    name: str
    backend: GrpcBackend
    clock: Callable[[], float]
    breaker: HealthProbe = field(init=False)
    first_ms: float = 0.0
    """Its usual time to a first token."""
    samples: int = 0
    sampled: float = 0.0
    rests_until: float = 0.0

    def __post_init__(self) -> None:
        self.breaker = HealthProbe(failures=_FAILURES, open_s=_EJECTED_S, clock=self.clock)

    @property
    def busy(self) -> float:
        """Its load as it told it, or our own calls alone."""
        state = self.backend.state()
        return state.load or float(state.active)

    @property
    def waiting_ms(self) -> float:
        """Its usual time to a first token, for each request that is there already; what is old counts less and less.

        So a node that was slow once is tried again (peak EWMA, as in Finagle). Of one that was asked once only that
        it had to connect is known.
        """
        if self.samples < 2:
            return 0.0
        state = self.backend.state()
        fresh: float = 0.5 ** ((self.clock() - self.sampled) / _HALF_LIFE_S)
        return self.first_ms * fresh * (1 + state.active + state.queue)

    def can_be_asked(self) -> bool:
        """Not stopping, not out of reach, not resting after overload, and not ejected."""
        return self._health(self.backend.state()).is_usable

    def told(self) -> EndpointState:
        """What its calls have shown, for people and metrics."""
        state = self.backend.state()
        return EndpointState(
            address=self.name,
            health=self._health(state),
            reason=self.backend.fault,
            breaker=self.breaker.breaker,
            active=state.active,
            queue=state.queue,
            load=state.load,
            rtt_ms=state.rtt_ms,
            ttft_ms=self.first_ms if self.samples else None,
        )

    def _health(self, state: BackendState) -> EndpointHealth:
        if state.reason == "closed":
            return EndpointHealth.CLOSED
        if self.backend.in_doubt:
            return EndpointHealth.UNREACHABLE
        if not state.ready:
            return EndpointHealth.STOPPING
        if self.breaker.breaker is Breaker.OPEN:
            return EndpointHealth.EJECTED
        if self.clock() < self.rests_until:
            return EndpointHealth.RESTING
        return EndpointHealth.READY if self.samples or state.rtt_ms is not None else EndpointHealth.NEW

    def took(self, seconds: float) -> None:
        """Learn from a first token; the second one takes the place of the first, which had to connect."""
        weight = 1.0 if self.samples < 2 else _WEIGHT
        self.first_ms += weight * (seconds * 1e3 - self.first_ms)
        self.samples, self.sampled = self.samples + 1, self.clock()

    def missed(self, seconds: float) -> None:
        """Learn from a call that had no first token within this time: it takes longer than that."""
        if seconds * 1e3 > self.first_ms:
            self.took(seconds)

    def failed(self, error: BackendError) -> None:
        """Learn from a failure: a node rests for the time that it names, one that fails is ejected after a few.

        One that cannot be reached is in doubt, and nothing is asked to find out when it is back.
        """
        if isinstance(error, BackendOverloaded | BackendUnavailable) and error.retry_after:
            self.rests_until = self.clock() + error.retry_after
        if error.retryable and not isinstance(error, BackendOverloaded) and not self.backend.in_doubt:
            self.breaker.failed()
        else:
            self.breaker.abandoned()


class GrpcPool:
    """A cloud backend of several nodes, each reached over its own mutual TLS. Nothing is opened before the first call.

    Args:
        configs: One for each node, or one whose host is a name that resolves to several.
        name: The name that policies use.
        clock: Seconds, never backwards.
        lookup: How names become addresses.

    Raises:
        ConfigError: as `GrpcBackend` has, for each node.
    """

    location: Final = Location.CLOUD

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
        self._chooser = Chooser()
        self._nodes: dict[str, _Node] = {}
        self._asked: OrderedDict[str, set[str]] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        self._names = Names(configs, lookup=self._lookup, clock=clock)
        self._take(self._names.known)

    def _take(self, configs: Sequence[GrpcConfig]) -> None:
        """Add the nodes that are new, and let go of those that no name leads to any more, once they are idle."""
        with self._lock:
            wanted = {config.target: config for config in configs}
            for target, config in wanted.items():
                if target not in self._nodes and not self._closed:
                    backend = GrpcBackend(config, on_doubt=self._suspect, lookup=self._lookup)
                    self._nodes[target] = _Node(target, backend, self._clock)
            gone = [node for target, node in self._nodes.items() if target not in wanted and not node.busy]
            for node in gone:
                del self._nodes[node.name]
        for node in gone:
            node.backend.close()

    @property
    def capabilities(self) -> Capabilities:
        """What every node can do: the least of them."""
        known = [node.backend.capabilities for node in self._list()]
        windows = [capabilities.context_window for capabilities in known if capabilities.context_window]
        return Capabilities(
            model=known[0].model if known else "", context_window=min(windows, default=0), output_schema=True
        )

    def state(self) -> BackendState:
        """All nodes together: their work is added up, the nearest gives the round-trip time."""
        nodes = self._list()
        states = [node.backend.state() for node in nodes]
        askable = sum(node.can_be_asked() for node in nodes)
        reason = "closed" if self._closed else _silence({state.reason for state in states})
        windows = [state.context_window for state in states if state.context_window]
        return BackendState(
            name=self.name,
            location=Location.CLOUD,
            ready=not reason,
            reason=reason,
            nodes=max(1, askable),
            active=sum(state.active for state in states),
            queue=sum(state.queue for state in states),
            load=min((state.load for state in states), default=0.0),
            context_window=min(windows, default=0),
            rtt_ms=min((state.rtt_ms for state in states if state.rtt_ms is not None), default=None),
            energy_per_1k_tokens_j=max((state.energy_per_1k_tokens_j for state in states), default=0.0),
        )

    def members(self) -> tuple[EndpointState, ...]:
        """Each node by itself, in the order in which they were named."""
        return tuple([node.told() for node in self._list()])

    def count_tokens(self, request: Request) -> int:
        """Estimate the tokens of the prompt: the tokenizers are on the nodes."""
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer in pieces, from one node that this request has not asked yet; errors as `GrpcBackend.stream` has."""
        request = require_clearance(cleared, Location.CLOUD)
        node = self._pick(request, self._names.refresh(request.remaining()))
        with self._watched(node, cleared.request) as taken, closing(node.backend.stream(cleared)) as chunks:
            for chunk in chunks:
                taken(chunk)
                yield chunk

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Do as `stream` does, without blocking the event loop."""
        request = require_clearance(cleared, Location.CLOUD)
        node = self._pick(request, await self._names.arefresh(request.remaining()))
        with self._watched(node, cleared.request) as taken:
            async with aclosing(node.backend.astream(cleared)) as chunks:
                async for chunk in chunks:
                    taken(chunk)
                    yield chunk

    @contextmanager
    def _watched(self, node: _Node, request: Request) -> Iterator[Callable[[Chunk], None]]:
        """Learn from one call of *node*; what it yields is to be called with each chunk, before that is passed on.

        Whoever has the last chunk asks for no more, so that nothing comes after it.
        """
        began, first = self._clock(), True

        def taken(chunk: Chunk) -> None:
            nonlocal first
            if first:
                node.took(self._clock() - began)
                first = False
            if chunk.finish_reason is not None:
                self._answered(node, request)

        try:
            yield taken
        except BackendError as error:
            self._failed(node, error)
            if first and isinstance(error, DeadlineExceeded):
                node.missed(self._clock() - began)
            raise
        except BaseException:  # the caller left, or trust is broken
            node.breaker.abandoned()
            if first:
                node.missed(self._clock() - began)
            raise

    def _failed(self, node: _Node, error: BackendError) -> None:
        node.failed(error)
        if node.backend.in_doubt:
            self._suspect()

    def _suspect(self, since: float | None = None) -> None:
        """Where one node is out of reach, it may be the network: look at all of them before requests hang there."""
        for node in self._list():
            node.backend.suspect(since)

    def _pick(self, request: Request, configs: Sequence[GrpcConfig] | None) -> _Node:
        if configs is not None:
            self._take(configs)
        asked = self._asked_by(request)
        nodes = [node for node in self._list() if node.name not in asked]
        able = _best(nodes)
        if not able:
            raise BackendUnavailable(f"{self.name}: {self._why(len(asked))}", backend=self.name)
        node = self._chooser.choose(able, blocks_of(request) if len(self._nodes) > 1 else ())
        node.breaker.admit()
        with self._lock:
            asked.add(node.name)
        return node

    def _why(self, asked: int) -> str:
        nodes = self._list()
        stopping = sum(not node.backend.state().ready for node in nodes)
        return (
            f"no node is left of {len(nodes)}: {asked} were asked for this request, {stopping} are stopping or closed"
        )

    def _asked_by(self, request: Request) -> set[str]:
        """The nodes that this request has asked; once it has asked all of them it may begin anew."""
        with self._lock:
            asked = self._asked.setdefault(request.request_id, set()) if request.request_id else set()
            if asked >= self._nodes.keys():
                asked.clear()
            while len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
            return asked

    def _answered(self, node: _Node, request: Request) -> None:
        node.breaker.succeeded()
        with self._lock:
            self._asked.pop(request.request_id, None)

    def _list(self) -> list[_Node]:
        with self._lock:
            return list(self._nodes.values())

    def probe(self, *, timeout: float = 5.0) -> NodeDescription:
        """Ask each node what it is, within *timeout* seconds for each; the nearest one's answer.

        Raises:
            BackendError, SecurityError: no node answered; that of the last.
        """
        told: list[NodeDescription] = []
        failure: HybridLLMError = BackendUnavailable(f"{self.name} has no nodes", backend=self.name)
        for node in self._list():
            try:
                told.append(node.backend.probe(timeout=timeout))
            except HybridLLMError as error:
                failure = error
        if not told:
            raise failure
        return min(told, key=lambda node: node.rtt_ms)

    def close(self) -> None:
        """End running calls with `BackendUnavailable`; further ones end the same way. Twice is once."""
        self._closed = True
        for node in self._list():
            node.backend.close()

    async def aclose(self) -> None:
        """Do as `close` does, and close the running event loop's channels."""
        self._closed = True
        for node in self._list():
            await node.backend.aclose()


def _silence(reasons: set[str]) -> str:
    """Why nothing comes from any of the nodes, of which these are the reasons; empty where one of them may answer."""
    if not reasons or not reasons <= {SILENT, NO_WAY}:
        return ""
    return SILENT if SILENT in reasons else NO_WAY


def _best(nodes: Sequence[_Node]) -> Sequence[_Node]:
    """Those that can be asked; where there are none, those that are not out of reach; else all that are not closed."""
    able = [node for node in nodes if node.can_be_asked()]
    ready = [] if able else [node for node in nodes if node.backend.state().ready]
    return able or [node for node in ready if not node.backend.in_doubt] or ready
