"""Slots with a queue: who is served, who waits, who is turned away; it knows no time and no tokens.

The simulated backends: slots, learnt predictions and what a policy sees of each; no events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.lab.simulate.parts import Parts, Predictor, Recent, Switch
from hybrid_llm.lab.simulate.world import World
from hybrid_llm.policies.policy import Policy

T = TypeVar("T")


class Station(Generic[T]):
    """First come, first served: at most *slots* at a time, at most *limit* waiting."""

    def __init__(self, slots: int, limit: int) -> None:
        self.slots = slots
        self._limit = limit
        self.active = 0
        self._waiting: OrderedDict[int, T] = OrderedDict()

    @property
    def queue(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def load(self) -> float:
        """Share of the slots in use, above 1 when some wait."""
        return (self.active + len(self._waiting)) / self.slots

    def enter(self, key: int, job: T) -> bool | None:
        """True: it may start. False: it waits. None: it is turned away."""
        if self.active < self.slots:
            self.active += 1
            return True
        if len(self._waiting) >= self._limit:
            return None
        self._waiting[key] = job
        return False

    def leave(self) -> T | None:
        """One is done; the next in the queue, if any, takes its slot and is returned."""
        if self._waiting:
            return self._waiting.popitem(last=False)[1]
        self.active -= 1
        return None

    def give_up(self, key: int) -> None:
        """One that waits does so no longer."""
        self._waiting.pop(key, None)


@dataclass(slots=True, kw_only=True)
class Server:
    """One backend. *rtt_ms* is the mean of the round trips so far, None before the first and on the device."""

    name: str
    location: Location
    station: Station[Any]
    predictor: Predictor
    recent: Recent
    breaker: Switch
    context_window: int
    input_per_1k: float
    output_per_1k: float
    energy_per_1k_tokens_j: float
    background: int = 0
    rtt_ms: float | None = None
    reported: tuple[int, int, float] = field(default=(0, 0, 0.0))
    """Active, queue and load of a node, as its last answer told them."""

    def price(self, prompt_tokens: int, output_tokens: int) -> float:
        """What that many tokens cost."""
        return (prompt_tokens * self.input_per_1k + output_tokens * self.output_per_1k) / 1000.0

    def state(self, prompt_tokens: int, max_tokens: int, *, affordable: bool) -> BackendState:
        """What a policy sees for such a request: the device's slots as they are now, a node's as it told them last."""
        here = self.location is Location.EDGE
        active, queue, load = self._slots() if here else self.reported
        bare = BackendState(name=self.name, location=self.location, active=active, queue=queue, load=load)
        ttft_ms, tpot_ms = self.predictor.ttft_ms(prompt_tokens, bare), self.predictor.tpot_ms(prompt_tokens)
        return BackendState(
            name=self.name,
            location=self.location,
            ready=affordable,
            reason="" if affordable else "the budget does not allow it",
            breaker=self.breaker.breaker,
            active=active,
            queue=queue,
            load=load,
            context_window=self.context_window,
            rtt_ms=self.rtt_ms,
            predicted_ttft_ms=ttft_ms,
            predicted_tpot_ms=tpot_ms,
            predicted_ttft_error_ms=self.predictor.ttft_error_ms(ttft_ms),
            predicted_tpot_error_ms=self.predictor.tpot_error_ms(tpot_ms),
            predictions=self.predictor.predictions,
            cost_per_1k_tokens=self.price(prompt_tokens, max_tokens) * 1000.0 / max(1, prompt_tokens + max_tokens),
            energy_per_1k_tokens_j=self.energy_per_1k_tokens_j,
        )

    def _slots(self) -> tuple[int, int, float]:
        return self.station.active, self.station.queue, self.station.load

    def report(self) -> None:
        """The node tells its load with an answer, other clients' streams included."""
        slots = self.station.slots + self.background
        active, queue = self.station.active + self.background, self.station.queue
        self.reported = (active, queue, (active + queue) / slots)

    def learn_rtt(self, rtt_ms: float, weight: float) -> None:
        """Blend in one round trip, as the cloud backend does."""
        self.rtt_ms = rtt_ms if self.rtt_ms is None else self.rtt_ms + weight * (rtt_ms - self.rtt_ms)


def make_fleet(policy: Policy, world: World, parts: Parts, breakers: Mapping[str, Switch]) -> dict[str, Server]:
    """The backends of *policy*, idle, in order."""
    return {name: _server(name, location, world, parts, breakers[name]) for name, location in policy.backends.items()}


def _server(name: str, location: Location, world: World, parts: Parts, breaker: Switch) -> Server:
    edge, node = world.edge, world.node
    here = location is Location.EDGE
    slots, limit = (edge.slots, edge.queue_limit) if here else (node.slots - node.background_streams, node.queue_limit)
    model = edge if here else node
    return Server(
        name=name,
        location=location,
        station=Station(slots, limit),
        predictor=parts.predictor(location),
        recent=parts.recent(),
        breaker=breaker,
        context_window=model.context_window,
        input_per_1k=model.input_per_1k,
        output_per_1k=model.output_per_1k,
        energy_per_1k_tokens_j=model.energy_per_1k_tokens_j,
        background=0 if here else node.background_streams,
    )
