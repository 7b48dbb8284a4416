"""The event loop: one policy over one trace in one world. Every request ends exactly once; the seed decides the rest.

What happens to a request at a backend is in `calls`, what the device does meanwhile in `device`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BudgetSignals, NetworkSignals, Signals
from hybrid_llm.lab.simulate.calls import Calls
from hybrid_llm.lab.simulate.device import Device
from hybrid_llm.lab.simulate.fleet import make_fleet
from hybrid_llm.lab.simulate.job import Job, Ledger
from hybrid_llm.lab.simulate.parts import Parts
from hybrid_llm.lab.simulate.service import Service, Setting
from hybrid_llm.lab.simulate.summary import Ended, How, Run, Sample
from hybrid_llm.lab.simulate.timeline import Timeline
from hybrid_llm.lab.simulate.trace import Arrival, Trace
from hybrid_llm.policies.policy import Policy

_SAMPLES: Final = 400
_AFTER_S: Final = 1.0
_NO_TAGS: Final[frozenset[str]] = frozenset()
_NETWORKS: Final = {
    (online, metered): NetworkSignals(online=online, metered=metered)
    for online in (True, False)
    for metered in (True, False)
}


def _place(job: Job) -> Location | None:
    """Where the answer ended: with the call that was read last, else with the one that was cut off at its very end."""
    return job.answering.server.location if job.answering is not None else job.states[job.broken].location


class Simulation:
    """One run of *policy*, which must declare every tag of *trace*."""

    def __init__(self, policy: Policy, trace: Trace, setting: Setting, parts: Parts) -> None:
        self._policy, self._trace, self._setting, self._world = policy, trace, setting, setting.world
        self._timeline = Timeline()
        self._device = Device(setting.world, setting.metered)
        self._ledger = Ledger(self._device.days)
        self._open: dict[int, Job] = {}
        self._known_bounds: dict[frozenset[str], tuple[frozenset[Location], bool]] = {}
        self._ended: list[Ended] = []
        self._samples: list[Sample] = []
        limits, clock = policy.resilience, self._timeline.clock
        breakers = {
            name: parts.breaker(limits.breaker.failures, limits.breaker.open_s, clock) for name in policy.backends
        }
        self._fleet = make_fleet(policy, setting.world, parts, breakers)
        self._service = Service(
            budget=policy.objectives.budget,
            setting=setting,
            device=self._device,
            ledger=self._ledger,
            timeline=self._timeline,
            step=lambda lane: self._calls.step(lane),
        )
        self._calls = Calls(
            fleet=self._fleet,
            buckets={name: parts.retry_budget(limits.retry_budget) for name in policy.backends},
            limits=limits,
            service=self._service,
            ended=self._end,
        )
        self._arrivals = iter(enumerate(trace.arrivals))
        self._coming = next(self._arrivals, None)
        self._turns = sorted({*setting.offline.edges, *setting.metered.edges}, reverse=True)
        self._was_on = self._device.on

    def run(self) -> Run:
        """Play the whole trace, until the last deadline is over; to be called once."""
        ends = [one.at_s + self._deadline(one) for one in self._trace.arrivals]
        until = max(ends, default=0.0) + _AFTER_S
        if 0.0 in self._turns:
            self._turn()
        while self._timeline.now < until:
            self._advance(min(self._next_instant(), until), until / _SAMPLES)
            self._step()
        return self._result()

    def _next_instant(self) -> float:
        times = [self._timeline.due, self._device.next_change()]
        if self._coming is not None:
            times.append(self._coming[1].at_s)
        if self._turns:
            times.append(self._turns[-1])
        return min(times)

    def _advance(self, now: float, step: float) -> None:
        """Let the time pass, and look at the device at even distances."""
        while (at := len(self._samples) * step) <= now:
            self._device.advance(at)
            self._samples.append(
                Sample(
                    at_s=at,
                    battery=self._device.battery,
                    temperature_c=self._device.temperature_c,
                    cost=self._ledger.total,
                )
            )
        self._device.advance(now)
        self._timeline.now = now

    def _step(self) -> None:
        """Do one thing that is due now."""
        now = self._timeline.now
        if self._device.on is not self._was_on:
            self._was_on = self._device.on
            if not self._was_on:
                self._calls.stop(list(self._open.values()))
        elif self._turns and self._turns[-1] <= now:
            self._turn()
        elif self._timeline.due <= now:
            self._timeline.play()
        elif self._coming is not None and self._coming[1].at_s <= now:
            number, arrival = self._coming
            self._coming = next(self._arrivals, None)
            self._arrive(number, arrival)

    def _turn(self) -> None:
        self._turns.pop()
        online = not self._setting.offline.covers(self._timeline.now)
        self._calls.turn(list(self._open.values()), online=online)

    def _deadline(self, arrival: Arrival) -> float:
        return arrival.deadline_s or self._policy.objectives.deadline_s or self._world.requests.deadline_s

    def _arrive(self, number: int, arrival: Arrival) -> None:
        """Hops 1 to 4 of a request: tags, signals, decision."""
        job = self._open[number] = self._job(number, arrival, self._deadline(arrival))
        if not self._device.on:
            self._end(job, How.OFF)
            return
        signals = self._signals(job.request)
        job.order, job.states = self._policy.decide(job.request, signals).order, signals.backends
        if Location.CLOUD not in job.allowed:
            job.would_leave = self._leaves_without_tags(job.request, signals)
        if job.order:
            self._calls.begin(job)
        else:
            self._end(job, How.REFUSED)

    def _job(self, number: int, arrival: Arrival, deadline: float) -> Job:
        most = arrival.max_tokens or self._world.requests.max_tokens
        allowed, pseudonymised = self._bounds(arrival.tags)
        request = RequestMetadata(
            task=arrival.task,
            privacy=arrival.tags,
            max_tokens=most,
            deadline=deadline,
            created=0.0,
            tenant=arrival.tenant,
            prompt_tokens=arrival.prompt_tokens,
        )
        return Job(
            number=number,
            arrival=arrival,
            request=request,
            output_tokens=max(1, min(arrival.output_tokens, most)),
            expires=self._timeline.now + deadline,
            allowed=allowed,
            pseudonymised=pseudonymised,
        )

    def _bounds(self, tags: frozenset[str]) -> tuple[frozenset[Location], bool]:
        """Where *tags* let a request go, and whether disguised: read off the tags, not off the decisions."""
        known = self._known_bounds.get(tags)
        if known is None:
            rules = [self._policy.tags[tag] for tag in tags]
            allowed = frozenset(place for place in Location if all(place in rule.allow for rule in rules))
            known = self._known_bounds[tags] = allowed, any(rule.pseudonymise for rule in rules)
        return known

    def _signals(self, request: RequestMetadata) -> Signals:
        prompt, most = request.prompt_tokens, request.max_tokens
        spent, budget = self._ledger.spent(request.tenant, self._timeline.now), self._policy.objectives.budget
        return Signals(
            device=self._device.signals(),
            network=_NETWORKS[self._calls.online, self._setting.metered.covers(self._timeline.now)],
            budget=BudgetSignals(spent=spent, left=None if budget is None else max(0.0, budget - spent)),
            backends={
                name: server.state(
                    prompt, most, affordable=self._service.affordable(request.tenant, server, prompt, most)
                )
                for name, server in self._fleet.items()
            },
        )

    def _leaves_without_tags(self, request: RequestMetadata, signals: Signals) -> bool:
        bare = self._policy.decide(replace(request, privacy=_NO_TAGS), signals)
        return bool(bare.order) and self._fleet[bare.order[0]].location is Location.CLOUD

    def _end(self, job: Job, how: How) -> None:
        del self._open[job.number]
        job.epoch += 1
        began, now = job.arrival.at_s, self._timeline.now
        answered = how is How.ANSWERED
        self._ended.append(
            Ended(
                arrival=job.arrival,
                how=how,
                at_s=now,
                location=_place(job) if answered else None,
                ttft_ms=(job.first_at - began) * 1000.0 if answered and job.first_at is not None else 0.0,
                total_ms=(now - began) * 1000.0,
                cost=job.cost,
                bound=Location.CLOUD not in job.allowed,
                left=job.left,
                would_leave=job.would_leave,
                pseudonymised=job.away and job.pseudonymised,
            )
        )

    def _result(self) -> Run:
        device = self._device
        return Run(
            policy=self._policy.name,
            digest=self._policy.digest,
            ended=tuple(self._ended),
            samples=tuple(self._samples),
            energy_j=device.energy_j,
            model_energy_j=device.model_energy_j,
            on_s=device.on_s,
            peak_c=device.peak_c,
            battery=device.battery,
        )
