"""The attempts of simulated requests: who is called, in which order, how often. It decides no policy.

It follows `router.execution.attempts`: down the order of the decision, rounds of retries, a rival for a silent
backend, an answer that breaks off continued by the next; one deadline, breakers, and a retry budget that pays for
all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.fleet import Server
from hybrid_llm.lab.simulate.job import Attempt, Job
from hybrid_llm.lab.simulate.parts import RetryBucket
from hybrid_llm.lab.simulate.service import Service, draw
from hybrid_llm.lab.simulate.summary import How
from hybrid_llm.policies.document import Resilience


@dataclass(slots=True, kw_only=True)
class Calls:
    """All attempts of one run. *ended* is told how each request ends, once."""

    fleet: Mapping[str, Server]
    buckets: Mapping[str, RetryBucket]
    limits: Resilience
    service: Service
    ended: Callable[[Job, How], None]
    online: bool = True
    _count: int = 0

    def begin(self, job: Job) -> None:
        """The decision stands: ask the first one."""
        self._bucket(job).deposit()
        self._round(job, job.order)

    def _bucket(self, job: Job) -> RetryBucket:
        return self.buckets[job.order[0]]

    def _round(self, job: Job, names: Iterable[str]) -> None:
        job.waiting = deque(names)
        self._go(job)

    def _go(self, job: Job) -> None:
        """Ask down the round until a call is open; then wait for it, and give it a rival if it is silent."""
        job.epoch += 1  # a rival that was to come for an earlier call comes no more
        while job.waiting and not job.lanes:
            self._start(job, job.waiting.popleft())
        if not job.lanes:
            self._round_over(job)
            return
        may = job.waiting and len(job.lanes) == 1 and self._bucket(job).pays()
        patience = self._patience_s(job.asked) if may else None
        if patience is not None:
            self.service.timeline.at(self._now + patience, self._rival, job)

    @property
    def _now(self) -> float:
        return self.service.timeline.now

    def _patience_s(self, name: str) -> float | None:
        if self.limits.hedge_quantile is None:
            return self.limits.hedge_after_s
        usual = self.fleet[name].recent.quantile(self.limits.hedge_quantile)
        return None if usual is None else usual / 1000.0

    def _rival(self, job: Job) -> None:
        self._start(job, job.waiting.popleft(), rival=True)
        self._go(job)

    def _start(self, job: Job, name: str, *, rival: bool = False) -> None:
        """Call *name*, unless its breaker is open, or it is not its first call and nothing pays for another."""
        server, again = self.fleet[name], job.calls[name] > 0
        if (
            not server.breaker.admit()
            or job.calls[name] > self.limits.retries
            or ((again or rival) and not self._bucket(job).withdraw())
        ):
            job.failures.setdefault(name, True)
        else:
            job.calls[name] += 1
            job.asked = name
            self._open(job, server)

    def _open(self, job: Job, server: Server) -> None:
        prompt = job.request.prompt_tokens + job.tokens
        if job.request.prompt_tokens + job.request.max_tokens > server.context_window:
            job.failures[server.name] = False
            return
        if not self.service.affordable(job.request.tenant, server, prompt, job.request.max_tokens):
            job.failures[server.name] = False
            return
        if server.location is Location.CLOUD and not self.online:
            server.breaker.failed()
            job.failures[server.name] = True
            return
        self._count += 1
        left = job.output_tokens - job.tokens
        lane = Attempt(
            number=self._count, job=job, server=server, began=self._now, prompt_tokens=prompt, output_tokens=left
        )
        if server.location is Location.CLOUD:
            self.service.call(lane)
        elif not self.service.enter(lane):
            job.failures[server.name] = True
            return
        job.lanes.append(lane)

    def _round_over(self, job: Job) -> None:
        """Everyone has failed: again after a pause, while someone may recover and there is time and budget."""
        job.rounds += 1
        when = self._now + self._pause_s(job)
        sensible = job.rounds <= self.limits.retries and self._candidates(job) and when < job.expires
        if sensible and self._bucket(job).pays():
            self.service.timeline.at(when, self._again, job)
        else:
            self.ended(job, How.FAILED)

    def _again(self, job: Job) -> None:
        self._round(job, self._candidates(job))

    def _candidates(self, job: Job) -> list[str]:
        """Those that asking again may help; whoever broke off an answer comes last."""
        names = [name for name in job.order if job.failures.get(name, True)]
        return sorted(names, key=lambda name: name == job.broken)

    def _pause_s(self, job: Job) -> float:
        """Full jitter: uniform from 0 to a bound that doubles (Brooker, 2015)."""
        asked = self.service.setting.world.requests
        most = min(asked.retry_pause_most_ms, asked.retry_pause_ms * 2.0 ** (job.rounds - 1))
        return most / 1000.0 * draw(self.service.setting, "pause", job.number, job.rounds)

    def step(self, lane: Attempt) -> None:
        """A call has come to its first token, its end, its refusal, or the deadline of its request."""
        if lane.refused:
            self._refused(lane)
        elif lane.first:
            self._last(lane)
        elif lane.serving and lane.first_at <= self._now:
            self._first(lane)
        else:
            self._late(lane.job)

    def _first(self, lane: Attempt) -> None:
        """The first token wins; whoever raced it is cancelled."""
        job = lane.job
        job.epoch += 1
        job.lanes.remove(lane)
        for other in job.lanes:
            self.service.release(other)
        job.lanes.clear()
        lane.first, job.answering = True, lane
        if job.first_at is None:
            job.first_at = lane.first_at
        self.service.timeline.at(min(lane.ends_at, job.expires), self.step, lane)

    def _last(self, lane: Attempt) -> None:
        if lane.ends_at > lane.job.expires:
            self._late(lane.job)
            return
        self.service.release(lane)
        lane.server.breaker.succeeded()
        self.ended(lane.job, How.ANSWERED)

    def _late(self, job: Job) -> None:
        self._drop(job)
        self.ended(job, How.LATE)

    def _refused(self, lane: Attempt) -> None:
        """A node said no, or nothing."""
        if self._now >= lane.job.expires:
            self._late(lane.job)
        else:
            self._lost(lane, breaking=lane.broken)

    def _lost(self, lane: Attempt, *, breaking: bool) -> None:
        """A call without a token is over: wait for its rival, or ask the next."""
        job = lane.job
        self.service.release(lane, cut=True)
        job.lanes.remove(lane)
        job.failures[lane.server.name] = True
        if breaking:
            lane.server.breaker.failed()
        self._go(job)

    def _drop(self, job: Job) -> None:
        """All calls of a request are over."""
        for lane in [*job.lanes, *([job.answering] if job.answering else [])]:
            self.service.release(lane)
        job.lanes.clear()

    def turn(self, jobs: Iterable[Job], *, online: bool) -> None:
        """A route to the cloud comes or goes; with it go the calls of *jobs* that are open."""
        lost, self.online = self.online and not online, online
        if lost:
            for job in jobs:
                self._cut(job)

    def _cut(self, job: Job) -> None:
        for lane in list(job.lanes):
            if lane in job.lanes and lane.server.location is Location.CLOUD:
                self._lost(lane, breaking=True)
        reading = job.answering
        if reading is not None and reading.server.location is Location.CLOUD and reading.ends_at > self._now:
            self._broke(reading)

    def _broke(self, lane: Attempt) -> None:
        """An answer breaks off: the next continues it where the policy says so, else the request has failed."""
        job = lane.job
        job.tokens += lane.produced(self._now)
        self.service.release(lane, cut=True)
        lane.server.breaker.failed()
        job.answering, job.broken, job.rounds = None, lane.server.name, 0
        job.failures[lane.server.name] = True
        if not self.limits.continue_streams:
            self.ended(job, How.FAILED)
        elif job.tokens >= job.request.max_tokens:
            self.ended(job, How.ANSWERED)
        else:
            self._again(job)

    def stop(self, jobs: Iterable[Job]) -> None:
        """The device goes off, and with it all that is open."""
        for job in jobs:
            self._drop(job)
            self.ended(job, How.OFF)
