"""Plays a trace under one policy: the router's own decisions and attempts over simulated backends, on a virtual clock.

The policy, the privacy guard, `Attempts` with hedges and continuations, circuit breakers, retry budgets, predictors,
picker and spending are those of production. What is simulated is in `backends` (service times) and `device` (power,
heat, speed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Final, cast

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import DeadlineExceeded, HybridLLMError
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location, PartialAnswer, RequestMetadata
from hybrid_llm.core.savings import UNIT
from hybrid_llm.core.signals import Signals
from hybrid_llm.lab.simulate.backends import Job, SimulatedBackend, draw
from hybrid_llm.lab.simulate.clock import Clock, VirtualRace
from hybrid_llm.lab.simulate.device import Device
from hybrid_llm.lab.simulate.privacy import Judge
from hybrid_llm.lab.simulate.trace import Arrival, Trace
from hybrid_llm.lab.simulate.world import Setting
from hybrid_llm.policies.policy import Policy
from hybrid_llm.router.execution.attempts import Attempts
from hybrid_llm.router.execution.call import OneByOne
from hybrid_llm.router.fleet import Fleet, without
from hybrid_llm.router.signals.predictor import Stopwatch
from hybrid_llm.router.spending.charge import Charge, Spending
from hybrid_llm.router.spending.ledger import MemoryLedger, Reservation

_SAMPLES: Final = 400
_AFTER_S: Final = 1.0


class Status(StrEnum):
    """How a request ended: exactly one of these."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """No backend was eligible: `NoEligibleBackend`."""
    FAILED = "failed"
    """All backends failed, or a stream broke off: `AllBackendsFailed`, `StreamInterrupted`."""
    LATE = "late"
    """The deadline passed: `DeadlineExceeded`."""
    OFF = "off"
    """The device had no energy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One request that has ended."""

    arrival: Arrival
    status: Status
    at_s: float
    location: Location | None = None
    """Where the answer came from, or was coming from."""
    ttft_ms: float = 0.0
    """From the request to the first token; 0 without one."""
    total_ms: float = 0.0
    cost: float = 0.0
    bound: bool = False
    """Its tags do not allow the cloud."""
    left: bool = False
    """It was sent to the cloud although it is *bound*: never, or something is wrong."""
    would_leave: bool = False
    """It is *bound*; without its tags the same policy would have sent it to the cloud."""
    pseudonymised: bool = False
    """It was sent to the cloud in that form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The device at one instant of the run."""

    at_s: float
    battery: float | None
    temperature_c: float
    cost: float
    """Spent since the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One policy over one trace. Energy is the device's alone, joules."""

    policy: Policy
    outcomes: tuple[Outcome, ...]
    samples: tuple[Sample, ...]
    energy_j: float
    model_energy_j: float
    """The part of *energy_j* that answers took: the model and the radio."""
    on_s: float
    peak_c: float
    battery: float | None
    """At the end, 0 to 1; None without a battery."""
    rules: Mapping[str, int]
    """Label of a rule, or `default` -> how many decisions it ordered."""
    exclusions: Mapping[tuple[str, str], int]
    """Backend and reason -> how many decisions excluded it so."""


class _Ledger(MemoryLedger):
    """The router's ledger on the time of day of the trace; it also adds up what each `Job` cost."""

    def __init__(self, clock: Clock, day_starts_s: float) -> None:
        super().__init__(clock=lambda: clock.now + day_starts_s)
        self._tasks = clock
        self.total = 0

    def settle(self, reservation: Reservation, amount: int) -> None:
        """Book *amount*, for the job whose task settles."""
        super().settle(reservation, amount)
        self.total += amount
        assert self._tasks.current is not None
        assert isinstance(self._tasks.current.owner, Job)
        self._tasks.current.owner.cost += amount


class Simulation:
    """One run of *policy*, which must declare every tag of *trace*."""

    def __init__(self, policy: Policy, trace: Trace, setting: Setting) -> None:
        self._policy, self._trace, self._setting = policy, trace, setting
        self._clock = clock = Clock()
        self._device = Device(setting)
        self._backends = {name: self._make_backend(name, location) for name, location in policy.backends.items()}
        self._ledger = _Ledger(clock, self._device.days.start_s)
        self._fleet = Fleet(
            # Not backends in full: the fleet asks them for their state and their health, and `_call` for streams.
            cast("list[Backend]", list(self._backends.values())),
            policy,
            sensors=self._device,
            spending=Spending({name: one.price for name, one in self._backends.items()}, self._ledger),
        )
        self._judge = Judge(policy)
        self._running: dict[Job, None] = {}
        self._outcomes: list[Outcome] = []
        self._samples: list[Sample] = []
        self._rules: Counter[str] = Counter()
        self._exclusions: Counter[tuple[str, str]] = Counter()

    def _make_backend(self, name: str, location: Location) -> SimulatedBackend:
        return SimulatedBackend(name, location, self._setting, self._clock, self._device)

    def run(self, on_progress: Callable[[float], object] = lambda _: None) -> Run:
        """Play the whole trace, until the last deadline is over; to be called once.

        *on_progress* is called now and then with the share that is done, 0 to 1.
        """
        ends = [one.at_s + self._deadline(one) for one in self._trace.arrivals]
        until = max(ends, default=0.0) + _AFTER_S
        self._clock.spawn(self._change_routes())
        self._clock.spawn(self._receive())
        for at in self._setting.metered.edges:
            self._clock.timer(at)  # the device advances to each edge, where the power of the radio changes
        self._clock.run_due()
        was_on, shown = self._device.on, 0
        while self._clock.now < until:
            self._advance(min(self._clock.due, self._device.next_change(), until), until / _SAMPLES)
            if was_on and not self._device.on:
                self._stop()
            was_on = self._device.on
            self._clock.run_due()
            if len(self._samples) > shown:
                shown = len(self._samples)
                on_progress(self._clock.now / until)
        device = self._device
        return Run(
            policy=self._policy,
            outcomes=tuple(self._outcomes),
            samples=tuple(self._samples),
            energy_j=device.energy_j,
            model_energy_j=device.model_energy_j,
            on_s=device.on_s,
            peak_c=device.peak_c,
            battery=device.battery,
            rules=dict(self._rules),
            exclusions=dict(self._exclusions),
        )

    async def _receive(self) -> None:
        """Let each request of the trace arrive at its time."""
        for number, arrival in enumerate(self._trace.arrivals):
            await self._clock.timer(arrival.at_s)
            self._arrive(number, arrival)

    async def _change_routes(self) -> None:
        """Connect and disconnect the backends in the cloud at the edges of the offline spans."""
        for number, at in enumerate(self._setting.offline.edges):
            await self._clock.timer(at)
            for backend in self._backends.values():
                if number % 2:
                    backend.connect()
                else:
                    backend.disconnect()

    def _advance(self, now: float, step: float) -> None:
        """Let the time pass, and sample the device at even distances."""
        while (at := len(self._samples) * step) <= now:
            self._device.advance(at)
            self._samples.append(
                Sample(
                    at_s=at,
                    battery=self._device.battery,
                    temperature_c=self._device.temperature_c,
                    cost=self._ledger.total / UNIT,
                )
            )
        self._device.advance(now)
        self._clock.now = now

    def _stop(self) -> None:
        """The device goes off, and with it all that runs."""
        for backend in self._backends.values():
            backend.flush()
        self._clock.run_due()
        for job in list(self._running):
            assert job.task is not None
            self._clock.cancel(job.task)
            self._end(job, Status.OFF)

    def _deadline(self, arrival: Arrival) -> float:
        return arrival.deadline_s or self._policy.objectives.deadline_s or self._setting.world.requests.deadline_s

    def _arrive(self, number: int, arrival: Arrival) -> None:
        """Hops 1 to 4 of a request: tags, signals, decision; then its attempts begin."""
        job = self._job(number, arrival)
        self._running[job] = None
        if not self._device.on:
            self._end(job, Status.OFF)
            return
        everywhere = self._fleet.snapshot(job.metadata, self._policy.objectives)
        signals = without(job.blocked, everywhere)
        decision = self._policy.decide(job.metadata, signals)
        self._rules[decision.rule] += 1
        self._exclusions.update(decision.excluded.items())
        if Location.CLOUD not in job.allowed:
            bare = self._policy.decide(replace(job.metadata, privacy=frozenset()), everywhere).order
            job.would_leave = bool(bare) and self._backends[bare[0]].location is Location.CLOUD
        if decision.order:
            job.task = self._clock.spawn(self._answer(job, decision, signals), owner=job)
        else:
            self._end(job, Status.REFUSED)

    def _job(self, number: int, arrival: Arrival) -> Job:
        max_tokens = arrival.max_tokens or self._setting.world.requests.max_tokens
        judged = self._judge(arrival)
        return Job(
            number=number,
            arrival=arrival,
            metadata=RequestMetadata(
                task=arrival.task,
                privacy=judged.tags,
                max_tokens=max_tokens,
                deadline=self._deadline(arrival),
                created=self._clock.now,
                tenant=arrival.tenant,
                prompt_tokens=arrival.prompt_tokens,
            ),
            output_tokens=max(1, min(arrival.output_tokens, max_tokens)),
            allowed=judged.allowed,
            blocked=judged.blocked,
            pseudonymised=judged.pseudonymised,
        )

    async def _answer(self, job: Job, decision: Decision, signals: Signals) -> None:
        """Hop 5: the router's attempts, to their end."""
        attempts = self._attempts(job, decision, signals)
        try:
            async with aclosing(attempts.run()) as chunks:
                async for _ in chunks:
                    if job.first_token_at is None:
                        job.first_token_at = self._clock.now
        except DeadlineExceeded:
            self._end(job, Status.LATE)
        except HybridLLMError:
            self._end(job, Status.FAILED)
        else:
            self._end(job, Status.ANSWERED, self._backends[attempts.answering].location)

    def _attempts(self, job: Job, decision: Decision, signals: Signals) -> Attempts:
        limits = self._policy.resilience
        nodes = {name: signals.backends[name].nodes for name in decision.order}
        hedges = limits.hedge_after is not None
        return Attempts(
            metadata=job.metadata,
            decision=decision,
            open_stream=partial(self._call, job, signals),
            sleep=self._clock.sleep,
            breakers=self._fleet.health,
            budget=self._fleet.retry_budgets[decision.order[0]],
            retries=limits.retries,
            nodes=nodes,
            is_ready=self._fleet.is_ready,
            continue_streams=limits.continue_streams,
            race=partial(VirtualRace, self._clock) if hedges and sum(nodes.values()) > 1 else OneByOne,
            patience=partial(self._fleet.hedge_delay, limits),
            clock=self._clock.time,
            draw=partial(self._jitter, job),
        )

    async def _call(
        self, job: Job, signals: Signals, name: str, partial_answer: PartialAnswer
    ) -> AsyncGenerator[Chunk, None]:
        """One call of a backend, timed and paid for, as `router.execution.call` makes it; there is no text to clear."""
        fleet, metadata = self._fleet, job.metadata
        charge = Charge(
            backend=name,
            tenant=metadata.tenant,
            prompt_tokens=metadata.prompt_tokens + partial_answer.tokens,
            max_tokens=metadata.max_tokens,
        )
        async with fleet.spending.bill(charge, self._policy.objectives, self._clock.sleep) as bill:
            watch = Stopwatch(self._clock.time)
            try:
                async with aclosing(self._backends[name].stream(job, partial_answer)) as chunks:
                    async for chunk in chunks:
                        watch.received(chunk)
                        if bill is not None:
                            bill.received(chunk)
                        yield chunk
            finally:
                fleet.learn(name, charge.prompt_tokens, signals.backends[name], watch.measured())

    def _jitter(self, job: Job) -> float:
        job.pauses += 1
        return draw(self._setting, "pause", job.number, job.pauses)

    def _end(self, job: Job, status: Status, location: Location | None = None) -> None:
        del self._running[job]
        began, now = job.arrival.at_s, self._clock.now
        first = job.first_token_at if status is Status.ANSWERED else None
        self._outcomes.append(
            Outcome(
                arrival=job.arrival,
                status=status,
                at_s=now,
                location=location,
                ttft_ms=0.0 if first is None else (first - began) * 1e3,
                total_ms=(now - began) * 1e3,
                cost=job.cost / UNIT,
                bound=Location.CLOUD not in job.allowed,
                left=job.leaked,
                would_leave=job.would_leave,
                pseudonymised=job.sent_to_cloud and job.pseudonymised,
            )
        )
