"""Simulated backends: slots with a queue, and streams that take the time, energy and round trips that the world says.

They raise the errors that real backends raise. Which backend is called is decided by the router.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from hybrid_llm.backends.grpc.picker import Picker
from hybrid_llm.core import errors
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.health import BackendHealth, Health, HealthProbe
from hybrid_llm.core.latency import FirstTokenTimes
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, PartialAnswer, RequestMetadata
from hybrid_llm.core.signals import BackendState
from hybrid_llm.lab.simulate.clock import Clock, Task, Wait
from hybrid_llm.lab.simulate.device import Device
from hybrid_llm.lab.simulate.trace import Arrival
from hybrid_llm.lab.simulate.world import Edge, Node, Setting
from hybrid_llm.router.spending.ledger import Price

_HAIR: Final = 1e-6
_NO_ROUTE: Final = "no route to host"


def draw(setting: Setting, *what: object) -> float:
    """A number from 0 to 1 that is the same for the same *what* under every policy."""
    return random.Random("/".join(map(str, (setting.seed, *what)))).random()  # noqa: S311  a simulation, no secret


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One request that is simulated: what its calls need, and what they leave behind."""

    number: int
    arrival: Arrival
    metadata: RequestMetadata
    output_tokens: int
    """Of the whole answer."""
    allowed: frozenset[Location]
    """What its tags allow, read from the policy's tags and not from its decisions."""
    blocked: Mapping[Location, str]
    """Where the guard does not let it go although its tags allow the location, with the reasons."""
    pseudonymised: bool
    """Its tags demand that form in the cloud."""
    would_leave: bool = False
    """Without its tags the same policy would send it to the cloud."""
    calls: Counter[str] = field(default_factory=Counter)
    endpoints: set[str] = field(default_factory=set)
    """Those that it has called."""
    first_token_at: float | None = None
    sent_to_cloud: bool = False
    leaked: bool = False
    """It was sent to the cloud although its tags do not allow that."""
    cost: int = 0
    """Billionths of the currency."""
    pauses: int = 0
    """Pauses before retries that were drawn for it."""
    task: Task | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class _Call:
    """One call. Times are seconds since the start of the trace."""

    job: Job
    prompt_tokens: int
    """Of the prompt, and of the answer so far where it is continued."""
    output_tokens: int
    """Still to come."""
    expires: float
    began: float
    wait: Wait = field(default_factory=Wait)
    """What it waits for now."""
    rtt_ms: float = 0.0
    first_at: float = 0.0
    token_s: float = 0.0
    sent: int = 0
    """Tokens that the caller has."""

    @property
    def ends_at(self) -> float:
        """When its last token arrives."""
        return self.first_at + (self.output_tokens - 1) * self.token_s

    def ready_tokens(self, now: float) -> int:
        """Tokens that are there at *now* and not sent yet."""
        if now >= self.ends_at:
            return self.output_tokens - self.sent
        return min(self.output_tokens, 1 + int((now - self.first_at) / self.token_s + _HAIR)) - self.sent


class Endpoint:
    """One node, or the model on the device: serves *slots* calls at a time, *limit* may wait; first come, first served.

    *background* are those of the slots of a node that other clients hold.
    """

    def __init__(self, address: str, clock: Clock, *, slots: int, limit: int, background: int = 0) -> None:
        self.address = address
        self._clock = clock
        self._slots, self._limit = slots, limit
        self.streams = background
        """Calls in service, those of other clients included."""
        self._waiting: OrderedDict[Wait, None] = OrderedDict()
        self.reported = 0, 0, 0.0
        self.times = FirstTokenTimes(clock.time)
        self.probe = HealthProbe(failures=1, open_s=0.0, clock=clock.time)

    def load(self) -> tuple[int, int, float]:
        """Calls in service, calls that wait, and both as a share of all slots."""
        waiting = len(self._waiting)
        return self.streams, waiting, (self.streams + waiting) / self._slots

    @property
    def busy(self) -> float:
        """The load that it reported last, for the picker."""
        return self.reported[2]

    @property
    def expected_ttft_ms(self) -> float:
        """The expected time to a first token there, for the picker."""
        return self.times.expected_ms * (1 + self.reported[0] + self.reported[1])

    def enter(self, until: float) -> Wait | None:
        """Take a slot, or queue for one until *until*; None where slots and queue are full."""
        if self.streams < self._slots:
            self.streams += 1
            served = Wait()
            self._clock.wake(served)
            return served
        if len(self._waiting) >= self._limit:
            return None
        queued = self._clock.timer(until)
        self._waiting[queued] = None
        return queued

    def is_queued(self, wait: Wait) -> bool:
        """Whether *wait*, from `enter`, has no slot yet."""
        return wait in self._waiting

    def leave(self, wait: Wait) -> None:
        """Give back the slot, which the next in the queue takes, or the place in the queue."""
        if self.is_queued(wait):
            del self._waiting[wait]
            return
        if self._waiting:
            self._clock.wake(self._waiting.popitem(last=False)[0])
        else:
            self.streams -= 1
        self.reported = self.load()


class SimulatedBackend:
    """A backend on a `Clock`, on the device or in the cloud."""

    def __init__(self, name: str, location: Location, setting: Setting, clock: Clock, device: Device) -> None:
        self.name, self.location = name, location
        self._is_cloud = location is Location.CLOUD
        self._model: Edge | Node = setting.world.edge if location is Location.EDGE else setting.world.node
        self.capabilities: Final = Capabilities(model="simulated", context_window=self._model.context_window)
        self._setting, self._clock, self._device = setting, clock, device
        self._picker = Picker(draw=random.Random(f"{setting.seed}/picker/{name}"))  # noqa: S311
        others = setting.world.node.background_streams if self._is_cloud else 0
        addresses = [f"{name}-{n + 1}" for n in range(setting.world.node.count)] if self._is_cloud else [name]
        slots, limit = self._model.slots, self._model.queue_limit
        self._endpoints = [Endpoint(one, clock, slots=slots, limit=limit, background=others) for one in addresses]
        self._probes = [one.probe for one in self._endpoints]
        self.endpoint_health: Health = BackendHealth(lambda: self._probes) if self._is_cloud else self._probes[0]
        self._calls: dict[_Call, None] = {}
        self._rtt_ms: float | None = None

    @property
    def price(self) -> Price:
        """Of its tokens."""
        return Price(input_per_1k=self._model.input_per_1k, output_per_1k=self._model.output_per_1k)

    def state(self) -> BackendState:
        """As a real backend's: the slots of the device as they are, those of a node as its last answer reported."""
        loads = [one.reported if self._is_cloud else one.load() for one in self._endpoints]
        online = not self._probes[0].silent
        if online and isinstance(self.endpoint_health, BackendHealth):  # as the probes beside the calls find out
            for probe in self._probes:
                probe.probe_succeeded()
        return BackendState(
            name=self.name,
            location=self.location,
            sealed=self._is_cloud,
            ready=online,
            reason="" if online else _NO_ROUTE,
            serves=self.endpoint_health.serves,
            nodes=len(loads),
            active=sum(active for active, _, _ in loads),
            queue=sum(queue for _, queue, _ in loads),
            load=min(load for _, _, load in loads),
            context_window=self._model.context_window,
            rtt_ms=self._rtt_ms,
            energy_per_1k_tokens_j=self._model.energy_per_1k_tokens_j,
            quality=self._model.quality or None,
        )

    async def stream(self, job: Job, partial: PartialAnswer) -> AsyncGenerator[Chunk, None]:
        """Answer *job*, or continue *partial*: a chunk for the first token, one for the rest; more where it breaks off.

        Raises:
            BackendError: as real backends do.
        """
        job.calls[self.name] += 1
        if job.metadata.prompt_tokens + job.metadata.max_tokens > self._model.context_window:
            raise errors.RequestRejected(f"{self.name}: too long", backend=self.name, reason="context_overflow")
        call = _Call(
            job=job,
            prompt_tokens=job.metadata.prompt_tokens + partial.tokens,
            output_tokens=max(1, job.output_tokens - partial.tokens),
            began=self._clock.now,
            expires=job.metadata.created + job.metadata.deadline,
        )
        with self._open(call) as endpoint:
            slot = call.wait = await self._enter(call, endpoint)
            try:
                await slot
                if endpoint.is_queued(slot):
                    raise self._late(call)
                with self._serving(call, endpoint):
                    async for chunk in self._decode(call):
                        yield chunk
            finally:
                endpoint.leave(slot)

    @contextmanager
    def _open(self, call: _Call) -> Iterator[Endpoint]:
        """Pick an endpoint, and let it learn from the call; while one to the cloud is open, the radio is on."""
        if self._probes[0].silent:
            raise self._no_route()
        endpoint = self._pick(call.job)
        if self._is_cloud:
            call.job.sent_to_cloud = True
            call.job.leaked |= Location.CLOUD not in call.job.allowed
            call.rtt_ms = self._setting.rtt.at(self._clock.now)
            self._device.call(1)
        self._calls[call] = None
        try:
            yield endpoint
        except errors.BackendError as error:
            if self._is_cloud and error.retryable and not isinstance(error, errors.BackendOverloaded):
                endpoint.probe.failed()
            raise
        finally:
            del self._calls[call]
            if self._is_cloud:
                self._device.call(-1)
                self._report(call, endpoint)

    def _report(self, call: _Call, endpoint: Endpoint) -> None:
        """Report to the health of a node and to the picker; calls of the edge are reported by the attempts."""
        if call.sent == call.output_tokens:
            endpoint.probe.succeeded()
        else:
            endpoint.probe.abandoned()
        if call.sent:
            endpoint.times.add((call.first_at - call.began) * 1e3)
        else:
            endpoint.times.add_missed((self._clock.now - call.began) * 1e3)

    def _pick(self, job: Job) -> Endpoint:
        """An endpoint that the request has not called yet; of several the picker chooses."""
        if len(self._endpoints) == 1:
            endpoint = self._endpoints[0]
        else:
            new = [one for one in self._endpoints if one.address not in job.endpoints]
            if not new:
                job.endpoints.difference_update(one.address for one in self._endpoints)
                new = self._endpoints
            endpoint = self._picker.pick([one for one in new if one.probe.health.is_usable] or new)
            job.endpoints.add(endpoint.address)
        if self._is_cloud:
            endpoint.probe.admit()
        return endpoint

    async def _enter(self, call: _Call, endpoint: Endpoint) -> Wait:
        """What ends when the call has a slot, or at its deadline; a node rejects it after one round trip."""
        job, share = call.job, self._setting.world.node.failure_share if self._is_cloud else 0.0
        if share and draw(self._setting, self.name, job.number, job.calls[self.name]) < share:
            error: errors.BackendError = errors.BackendUnavailable(f"{self.name} does not answer", backend=self.name)
        elif slot := endpoint.enter(call.expires):
            return slot
        else:
            error = errors.BackendOverloaded(f"{self.name} is full", backend=self.name)
        if self._is_cloud:
            await self._until(call, self._clock.now + call.rtt_ms / 1e3)
        raise error

    async def _until(self, call: _Call, at: float) -> None:
        """Wait until *at*; DeadlineExceeded where that is not before the deadline."""
        call.wait = self._clock.timer(min(at, call.expires))
        await call.wait
        if at > call.expires <= self._clock.now:
            raise self._late(call)

    def _late(self, call: _Call) -> errors.DeadlineExceeded:
        return call.job.metadata.late(self.name)

    @contextmanager
    def _serving(self, call: _Call, endpoint: Endpoint) -> Iterator[None]:
        """Plan all times of the answer; the edge draws power while it works, a node's answer shows the round trip."""
        prompt, tokens = call.prompt_tokens, call.prompt_tokens + call.output_tokens
        model = self._model
        reading = model.overhead_ms / 1e3 + prompt / model.prefill_tokens_per_s
        if isinstance(model, Edge):
            speed = self._device.speed()
            call.token_s = 1.0 / model.decode_tokens_per_s / speed
            self._device.work(speed, tokens)
        else:
            speed = 1.0
            call.token_s = model.decode_ms / 1e3 * (1.0 + model.batch_slowdown * (endpoint.streams - 1))
        call.first_at = self._clock.now + call.rtt_ms / 1e3 + reading / speed
        try:
            yield
        finally:
            if self._is_cloud:
                last = call.rtt_ms if self._rtt_ms is None else self._rtt_ms
                self._rtt_ms = last + self._setting.world.network.rtt_weight * (call.rtt_ms - last)
            else:
                self._device.work(-speed, -tokens)

    async def _decode(self, call: _Call) -> AsyncGenerator[Chunk, None]:
        await self._until(call, call.first_at)
        call.sent = 1
        yield Chunk(text=".", tokens=1)
        while call.sent < call.output_tokens:
            broken: errors.BackendError | None = None
            try:
                await self._until(call, call.ends_at)
            except errors.BackendError as error:
                broken = error
            tokens = call.ready_tokens(self._clock.now)
            call.sent += tokens
            if broken is None and call.sent == call.output_tokens:
                yield Chunk(tokens=tokens, finish_reason=FinishReason.STOP)
                return
            if tokens:
                yield Chunk(text="." * tokens, tokens=tokens)
            if broken is not None:
                raise broken
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP)

    def _no_route(self) -> errors.BackendUnavailable:
        return errors.BackendUnavailable(f"{self.name}: {_NO_ROUTE}", backend=self.name, reason="no_route")

    def connect(self) -> None:
        """There is a route to the cloud again."""
        for probe in self._probes:
            probe.probe_succeeded()

    def disconnect(self) -> None:
        """The route to the cloud is gone: every open call there fails."""
        if not self._is_cloud:
            return
        for probe in self._probes:
            probe.probe_failed(errors.BackendUnavailable.__name__, silent=True)
        for call in list(self._calls):
            if not call.sent:
                self._clock.wake(call.wait, self._no_route())
            elif call.ends_at > self._clock.now:
                self._clock.wake(
                    call.wait, errors.StreamInterrupted(f"{self.name}: the route is gone", backend=self.name)
                )

    def flush(self) -> None:
        """Let every call send the tokens that are there."""
        for call in list(self._calls):
            if call.sent:
                self._clock.wake(call.wait)
