"""Verifies a policy by bounded search: the real guard, policy and attempts, run over every case of a bounded world.

Three stages, the simplest cases first; each passes on one case of every kind that the next one could distinguish:

1. the guard judges every set of declared tags with every finding and failure of detectors;
2. for each kind of judgement, the policy decides under every outcome of its conditions and state of its backends;
3. for each decision, the real pipeline runs a request to its end, through every failure of every call.

Each step is checked against an oracle that has only the declarations of the tags, and uses none of this code. Two
barriers are verified separately: what the policy decides, and what the guard would clear if the policy were wrong.
The first two stages are in `deciding`, the third is here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Final

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import HybridLLMError, PrivacyViolation, StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.lab.verify import report
from hybrid_llm.lab.verify.deciding import Parts, decide_all, detectors_of, judge_all
from hybrid_llm.lab.verify.report import UNTAGGED, Claim, Reach, Results, Scope, Statement, Verdict, Verification, mark
from hybrid_llm.lab.verify.world import (
    Abstract,
    Call,
    Event,
    Fitness,
    Kind,
    RecordingBackend,
    RecordingCache,
    Scripted,
    Silence,
    World,
    abstract,
)
from hybrid_llm.policies import FixedPolicy, Objectives, Policy
from hybrid_llm.policies.document import Percentile
from hybrid_llm.router.caching.guarded import GuardedCache
from hybrid_llm.router.execution.answer import iterate, stepped
from hybrid_llm.router.execution.call import Attempt, OneByOne, Routed
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.signals import FixedSensors
from hybrid_llm.router.spending.charge import Spending

_ALWAYS: Final = (Kind.DOWN, Kind.CUT, Kind.FULL, Kind.UNFIT, Kind.REFUSES, Kind.LATE, Kind.UNTRUSTED)
_DEEP: Final = 2
"""From this call on only the first two kinds are tried: those after which most can follow."""

_WHOLE: Final = 240
"""Most runs of one decision for the first set of tags that leads to it."""
_SHORT: Final = 30
"""Most runs of it for each further set of tags: shorter sequences, every kind of failure still."""
_MOST_MARKS: Final = 3
_ENOUGH_TIMES: Final = 20


def verify(
    policy: Policy,
    *,
    claims: Sequence[Claim] = (),
    defaults: frozenset[str] = frozenset(),
    parts: Parts | None = None,
) -> Verification:
    """Verify what *policy* promises for each of its tags, and *claims* besides.

    Args:
        policy: The policy to verify.
        claims: Further promises.
        defaults: The tags that the configuration adds to every request.
        parts: The code under verification.
    """
    parts, results, free = parts or Parts(), Results(), abstract(policy)
    with _silent("hybrid_llm", "hybrid_llm.privacy"):  # detectors and backends fail by the thousand here, on purpose
        kinds, covers = judge_all(free.policy, parts, results)
        decided, more = decide_all(free, kinds, results)
        covers |= more | _attempt_all(free, decided, parts, results)
    sealed = {tag for tag, rule in policy.tags.items() if rule.sealed}
    statements = tuple(results.statement(tag, sealed=tag in sealed) for tag in (*policy.tags, UNTAGGED))
    return Verification(
        policy=policy.name,
        digest=policy.digest,
        backends=policy.backends,
        statements=statements,
        claims=tuple((claim, results.against(claim)) for claim in claims),
        scope=Scope(judgements=results.judgements, decisions=results.decisions, requests=results.runs, searched=covers),
        notes=tuple(_notes(policy, statements, defaults)),
    )


@contextmanager
def _silent(*names: str) -> Iterator[None]:
    logs = [logging.getLogger(name) for name in names]
    before = [log.disabled for log in logs]
    for log in logs:
        log.disabled = True
    try:
        yield
    finally:
        for log, was in zip(logs, before, strict=True):
            log.disabled = was


def _notes(policy: Policy, statements: Sequence[Statement], defaults: frozenset[str]) -> Iterator[str]:
    """Facts that may surprise."""
    reached = {statement.tag: statement.locations() + statement.locations(pseudonyms=True) for statement in statements}
    if Location.CLOUD in reached[UNTAGGED] and not defaults:
        yield "a request without a tag, in which nothing is found, may go to the cloud; see `defaults: {privacy: ...}`"
    for tag in sorted(defaults & policy.tags.keys()):
        yield f"the configuration tags every request {tag}"
    for tag, rule in policy.tags.items():
        if not rule.detect and rule.allow != frozenset(Location):
            yield f"no detector sets the tag {tag}: it protects only what the app declares"
        if not reached[tag]:
            yield f"no request with the tag {tag} ever reaches a backend"


def _attempt_all(
    free: Abstract, decided: Sequence[tuple[tuple[str, ...], World]], parts: Parts, results: Results
) -> dict[str, str]:
    """Run every decision to its end; return a description of the cases."""
    seen: set[tuple[str, ...]] = set()
    deepest, cut = 0, False
    for order, world in decided:
        depth, more = _Attempting(free, order, world, parts, results).all(_SHORT if order in seen else _WHOLE)
        if order not in seen:
            deepest, cut = max(deepest, depth), cut or more
        seen.add(order)
    names = sorted({one.kind.split(",")[0].replace(" what {mark} finds", "") for one in _kinds(free.policy)})
    limit = f", the first {_WHOLE} runs of each decision" if cut else ""
    return {
        "failures": f"up to {deepest} calls in a row, each of which {', '.join(names)}{limit}; breakers that open",
        "locations": "each backend at another location than the policy declares",
        "caches": "one on the device, one in the cloud",
    }


def _kinds(policy: Policy) -> list[Event]:
    """Every way in which a call can end, under the resilience of *policy*."""
    limits = policy.resilience
    found = [Event(kind) for kind in _ALWAYS]
    if limits.hedge_after is not None:
        found.append(Event(Kind.SILENT))
    marks = [rule.detect[0] for rule in policy.tags.values() if rule.detect][:_MOST_MARKS]
    found += [Event(Kind.WRITES, name) for name in marks]
    return found + ([Event(Kind.CUT_WRITING, name) for name in marks] if limits.continue_streams else [])


class _Attempting:
    """All runs of one decision."""

    def __init__(self, free: Abstract, order: tuple[str, ...], world: World, parts: Parts, results: Results) -> None:
        self.free, self.order, self.world, self.parts, self.results = free, order, world, parts, results

    def all(self, most: int) -> tuple[int, bool]:
        """Run at most *most* sequences of failures, the shortest first; their depth, and whether any were left out."""
        world = self.world
        _Run(self, world, cache_at=Location.CLOUD).check()
        for name in self.order:
            _Run(self, replace(world, states={**world.states, name: Fitness.DISGUISED})).check()
            _Run(self, world, tripped=(name,)).check()
        kinds = _kinds(self.free.policy)
        waiting: deque[tuple[Event, ...]] = deque([()])
        deepest = 0
        for _ in range(most):
            if not waiting:
                return deepest, False
            events = waiting.popleft()
            deepest = max(deepest, len(events))
            run = _Run(self, world, events)
            run.check()
            if events and events[-1].kind is Kind.WRITES:
                _Run(self, world, events, cache_at=Location.CLOUD).check()
            if len(run.calls) > len(events):
                waiting.extend((*events, kind) for kind in (kinds if len(events) < _DEEP else kinds[:_DEEP]))
        return deepest, bool(waiting)


class _Run:
    """One request that runs to its end, and is compared with what the tags allow.

    Its calls end as *events* say, and a cache is at *cache_at*. After the decision the breakers of the backends
    *tripped* open, because other requests failed there.
    """

    def __init__(
        self,
        plan: _Attempting,
        world: World,
        events: tuple[Event, ...] = (),
        *,
        cache_at: Location = Location.EDGE,
        tripped: tuple[str, ...] = (),
    ) -> None:
        self._order, self._results, self._world, self._tripped = plan.order, plan.results, world, tripped
        self._policy = policy = plan.free.policy
        script, cache = Scripted(events), RecordingCache(cache_at)
        fleet = _WorldFleet(plan.free, world, script)
        guard, attempts = plan.parts.guard(detectors_of(policy, world)), plan.parts.attempts
        answers = GuardedCache(cache, guard, fleet)
        pipeline = Pipeline(fleet, FixedPolicy(policy), guard, cache=answers, attempts=attempts)
        self._routed = pipeline.route(world.prompt(), world.options())
        for name in tripped:
            for _ in range(policy.resilience.breaker.failures):
                fleet.health[name].failed()
        self._error = _drain(pipeline, self._routed, script) if self._routed.decision.order else None
        self.calls, self._cache_calls = script.calls, cache.calls
        self._results.runs += 1

    def check(self) -> None:
        """Check the decision, the calls, the cache and the end."""
        tags = self._routed.metadata.privacy
        if self._routed.decision.order != self._order:
            step = "but in a full run it decides otherwise"
            self._results.violate(tags, report.DECIDED, lambda: self._steps(0, step))
        for index, call in enumerate(self.calls):
            self._call(index, call)
        for call in self._cache_calls:
            self._cached(call)
        if isinstance(self._error, PrivacyViolation) and Fitness.DISGUISED not in self._world.states.values():
            step = f"then the guard has to block the next call: {self._error}"
            self._results.violate(tags, report.ATTEMPTED, lambda: self._steps(len(self.calls), step))

    def _verdict(self, written: str) -> Verdict:
        """What holds once the request contains what was *written*."""
        tags = self._policy.tags
        found = frozenset(name for rule in tags.values() for name in rule.detect if mark(name) in written)
        return report.judge(tags, self._world.declared, self._world.finds | found, self._world.fails)

    def _call(self, index: int, call: Call) -> None:
        verdict = self._verdict(call.partial)
        left = [name for name in sorted(verdict.pseudonymised) if any(mark(name) in text for text in call.texts)]
        pseudonymised = call.location is Location.CLOUD and bool(verdict.pseudonymised)
        form = "with pseudonyms" if pseudonymised and not left else "as it is"
        called = f"{_named(call)} is called with the request {form}"
        if call.name not in self._routed.decision.order:
            self._violated(verdict, report.ATTEMPTED, index, called, "but it is not in the order of the decision")
        elif call.location not in verdict.allowed:
            self._violated(verdict, report.REACHED, index, called, f"but {verdict.why}")
        elif call.location is Location.CLOUD and left:
            self._violated(verdict, report.REACHED, index, called, f"but what {left[0]} finds must be replaced there")
        elif Fitness.DISGUISED not in self._world.states.values():
            reach = Reach(location=call.location, pseudonyms=pseudonymised)
            self._results.reach(verdict.tags, reach, lambda: self._steps(index, called))

    def _cached(self, call: Call) -> None:
        verdict = self._verdict(call.answer)
        step = f"a cache on {call.location} {'is given the answer' if call.answer else 'is asked'}"
        if call.location not in verdict.cacheable:
            why = verdict.why or "nothing may be cached there"
            self._violated(verdict, report.CACHED, len(self.calls), step, f"but {why}")
        elif call.answer and call.location is Location.EDGE and Fitness.DISGUISED not in self._world.states.values():
            reach = Reach(location=call.location, cached=True)
            self._results.reach(verdict.tags, reach, lambda: self._steps(len(self.calls), step))

    def _violated(self, verdict: Verdict, promise: str, index: int, *last: str) -> None:
        self._results.violate(verdict.tags, promise, lambda: self._steps(index, *last))

    def _steps(self, index: int, *last: str) -> tuple[str, ...]:
        """The world, the decision, the first *index* calls and how they ended, and the *last* steps."""
        decision = self._routed.decision
        order = " > ".join(decision.order) or "no backend"
        decided = f"the policy decides: {order} ({decision.rule}: {decision.because})"
        opened = [f"the breaker of {name} opens" for name in self._tripped]
        ended = [f"{call.name} {call.event.text()}" for call in self.calls[:index] if call.event is not None]
        return (*self._world.steps(self._policy), decided, *opened, *ended, *last)


def _named(call: Call) -> str:
    return call.name if call.name == call.location else f"{call.name}, which is at {call.location},"


class _WorldFleet(Fleet):
    """The real fleet, except that its signals are the world's instead of measured ones."""

    def __init__(self, free: Abstract, world: World, script: Scripted) -> None:
        policy = free.policy
        backends = [RecordingBackend(name, world.location(name, at), script) for name, at in policy.backends.items()]
        super().__init__(backends, policy, sensors=FixedSensors(), spending=Spending({}))
        self._signals = world.signals(policy, free.free)
        if isinstance(policy.resilience.hedge_after, Percentile):  # which is known after enough answers
            for times in self.first_token_times.values():
                for _ in range(_ENOUGH_TIMES):
                    times.add(100.0)

    def snapshot(self, metadata: RequestMetadata, objectives: Objectives) -> Signals:
        """The signals of the world."""
        del metadata, objectives
        return self._signals


class _Race(OneByOne):
    """A race that waits for one attempt at a time; a silent one stays open while the next is started."""

    def __init__(self) -> None:
        super().__init__()
        self._silent: list[Attempt] = []

    @property
    def running(self) -> int:
        """Started and not over."""
        return len(self._attempts) + len(self._silent)

    async def ready(self, timeout: float | None) -> Attempt | None:
        """The next attempt with a chunk or an error; None if one is silent and a hedge may be started."""
        if self._attempts:
            try:
                return await super().ready(timeout)
            except Silence:
                self._silent.append(self._attempts.pop(0))
        if timeout is not None:
            return None
        attempt = self._silent.pop(0)
        attempt.error = StreamInterrupted(f"{attempt.name} sent nothing until the end", backend=attempt.name)
        return attempt

    async def stop(self) -> list[Attempt]:
        """Close what still runs."""
        left, self._silent = [*await super().stop(), *self._silent], []
        for attempt in left:
            await attempt.stream.aclose()
        return left


async def _no_pause(seconds: float) -> None:
    del seconds


def _open(backend: Backend, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
    return stepped(backend.stream(cleared))


def _drain(pipeline: Pipeline, routed: Routed, script: Scripted) -> HybridLLMError | None:
    try:
        with closing(iterate(pipeline.answer(routed, _open, _no_pause, _Race).chunks())) as chunks:
            for chunk in chunks:
                script.received += chunk.text
    except HybridLLMError as error:
        return error
    return None
