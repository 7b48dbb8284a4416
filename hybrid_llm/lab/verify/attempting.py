"""The third stage of a verification: runs requests to their end through every failure, and checks each call.

Each request runs through the real pipeline, from the prompt to the end of its attempts; the world records its calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import HybridLLMError, PrivacyViolation, StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.lab.verify.deciding import Decided, Parts, detectors_of
from hybrid_llm.lab.verify.report import ATTEMPTED, CACHED, DECIDED, REACHED, Reach, Results, Verdict, judge, mark
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
)
from hybrid_llm.policies import FixedPolicy, Objectives, Policy
from hybrid_llm.policies.document import Percentile
from hybrid_llm.router.cache import AnswerCache
from hybrid_llm.router.execution.answer import iterate, stepped
from hybrid_llm.router.execution.call import Attempt, Routed
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


def attempt_all(free: Abstract, decided: Sequence[Decided], parts: Parts, results: Results) -> dict[str, str]:
    """Run every decision to its end; return a description of the cases."""
    seen: set[tuple[str, ...]] = set()
    deepest, cut = 0, False
    for one in decided:
        order = one.decision.order
        explored = _Attempting(free, one, parts, results)
        depth, more = explored.all(_SHORT if order in seen else _WHOLE)
        if order not in seen:
            deepest, cut = max(deepest, depth), cut or more
        seen.add(order)
    failures = [kind for kind in _kinds(free.policy) if kind.kind is not Kind.ANSWERS]
    names = sorted({kind.kind.split(",")[0].replace(" what {mark} finds", "") for kind in failures})
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

    def __init__(self, free: Abstract, decided: Decided, parts: Parts, results: Results) -> None:
        self._free, self._decided, self._parts, self._results = free, decided, parts, results
        self._policy = free.policy

    def all(self, most: int) -> tuple[int, bool]:
        """Run at most *most* sequences of failures, the shortest first; their depth, and whether any were left out."""
        world = self._decided.world
        self._run(world, (), cache_at=Location.CLOUD)
        for name in self._decided.decision.order:
            self._run(replace(world, states={**world.states, name: Fitness.DISGUISED}), ())
            self._run(world, (), tripped=(name,))
        return self._tree(world, most)

    def _tree(self, world: World, most: int) -> tuple[int, bool]:
        kinds = _kinds(self._policy)
        waiting: deque[tuple[Event, ...]] = deque([()])
        deepest = 0
        for _ in range(most):
            if not waiting:
                return deepest, False
            events = waiting.popleft()
            deepest = max(deepest, len(events))
            ran = self._run(world, events)
            if events and events[-1].kind is Kind.WRITES:
                self._run(world, events, cache_at=Location.CLOUD)
            if len(ran.calls) > len(events):
                waiting.extend((*events, kind) for kind in (kinds if len(events) < _DEEP else kinds[:_DEEP]))
        return deepest, bool(waiting)

    def _run(
        self,
        world: World,
        events: tuple[Event, ...],
        *,
        cache_at: Location = Location.EDGE,
        tripped: tuple[str, ...] = (),
    ) -> Run:
        self._results.runs += 1
        ran = run(self._free, world, events, parts=self._parts, cache_at=cache_at, tripped=tripped)
        _Check(self._policy, world, ran, self._results, tripped).all(self._decided.decision.order)
        return ran


class _Check:
    """Compares one run with what the tags allow."""

    def __init__(self, policy: Policy, world: World, ran: Run, results: Results, tripped: tuple[str, ...]) -> None:
        self._policy, self._world, self._done, self._results = policy, world, ran, results
        self._tripped = tripped

    def all(self, order: tuple[str, ...]) -> None:
        """Check the decision, the calls, the cache and the end."""
        tags = self._done.routed.metadata.privacy
        if self._done.routed.decision.order != order:
            step = "but in a full run it decides otherwise"
            self._results.violate(tags, DECIDED, lambda: self._steps(0, step))
        for index, call in enumerate(self._done.calls):
            self._call(index, call)
        for call in self._done.cached:
            self._cached(call)
        if isinstance(self._done.error, PrivacyViolation) and Fitness.DISGUISED not in self._world.states.values():
            step = f"then the guard has to block the next call: {self._done.error}"
            self._results.violate(tags, ATTEMPTED, lambda: self._steps(len(self._done.calls), step))

    def _verdict(self, written: str) -> Verdict:
        finds = self._world.finds | marks_in(written, self._policy)
        return judge(self._policy.tags, self._world.declared, finds, self._world.fails)

    def _call(self, index: int, call: Call) -> None:
        verdict = self._verdict(call.partial)
        left = [name for name in sorted(verdict.pseudonymised) if any(mark(name) in text for text in call.texts)]
        pseudonymised = call.location is Location.CLOUD and bool(verdict.pseudonymised)
        form = "with pseudonyms" if pseudonymised and not left else "as it is"
        called = f"{_named(call)} is called with the request {form}"
        if call.name not in self._done.routed.decision.order:
            self._violated(verdict, ATTEMPTED, index, called, "but it is not in the order of the decision")
        elif call.location not in verdict.allowed:
            self._violated(verdict, REACHED, index, called, f"but {verdict.why}")
        elif call.location is Location.CLOUD and left:
            self._violated(verdict, REACHED, index, called, f"but what {left[0]} finds must be replaced there")
        elif Fitness.DISGUISED not in self._world.states.values():
            reach = Reach(location=call.location, pseudonyms=pseudonymised)
            self._results.reach(verdict.tags, reach, lambda: self._steps(index, called))

    def _cached(self, call: Call) -> None:
        verdict = self._verdict(call.answer)
        step = f"a cache on {call.location} {'is given the answer' if call.answer else 'is asked'}"
        if call.location not in verdict.cacheable:
            why = verdict.why or "nothing may be cached there"
            self._violated(verdict, CACHED, len(self._done.calls), step, f"but {why}")
        elif call.answer and call.location is Location.EDGE and Fitness.DISGUISED not in self._world.states.values():
            reach = Reach(location=call.location, cached=True)
            self._results.reach(verdict.tags, reach, lambda: self._steps(len(self._done.calls), step))

    def _violated(self, verdict: Verdict, promise: str, index: int, *last: str) -> None:
        self._results.violate(verdict.tags, promise, lambda: self._steps(index, *last))

    def _steps(self, index: int, *last: str) -> tuple[str, ...]:
        """The world, the decision, the first *index* calls and how they ended, and the *last* steps."""
        decision = self._done.routed.decision
        order = " > ".join(decision.order) or "no backend"
        decided = f"the policy decides: {order} ({decision.rule}: {decision.because})"
        opened = [f"the breaker of {name} opens" for name in self._tripped]
        ended = [f"{call.name} {call.event.text()}" for call in self._done.calls[:index] if call.event is not None]
        return (*self._world.steps(self._policy), decided, *opened, *ended, *last)


def _named(call: Call) -> str:
    return call.name if call.name == call.location else f"{call.name}, which is at {call.location},"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One request that ran to its end."""

    routed: Routed
    calls: tuple[Call, ...]
    cached: tuple[Call, ...]
    error: HybridLLMError | None = field(default=None)


class _WorldFleet(Fleet):
    """The real fleet, except that its signals are the world's instead of measured ones."""

    signals: Signals

    def snapshot(self, metadata: RequestMetadata, objectives: Objectives) -> Signals:
        """The signals of the world."""
        del metadata, objectives
        return self.signals

    def hear(self) -> None:
        """Record enough answers of every backend for a quantile to be known."""
        for times in self.first_token_times.values():
            for _ in range(_ENOUGH_TIMES):
                times.add(100.0)

    def trip(self, names: Iterable[str], failures: int) -> None:
        """Open the breakers of *names*: other requests failed there after the decision."""
        for name in names:
            for _ in range(failures):
                self.health[name].failed()


class _Race:
    """A race that waits for one attempt at a time; a silent one stays open while the next is started."""

    def __init__(self) -> None:
        self._attempts: list[Attempt] = []
        self._silent: list[Attempt] = []

    @property
    def running(self) -> int:
        """Started and not over."""
        return len(self._attempts) + len(self._silent)

    def start(self, attempt: Attempt) -> None:
        """Let *attempt* run once it is waited for."""
        self._attempts.append(attempt)

    async def ready(self, timeout: float | None) -> Attempt | None:
        """The next attempt with a chunk or an error; None if one is silent and a hedge may be started."""
        if self._attempts:
            attempt = self._attempts.pop(0)
            try:
                await attempt.begin()
            except Silence:
                self._silent.append(attempt)
            else:
                return attempt
        if timeout is not None:
            return None
        attempt = self._silent.pop(0)
        attempt.error = StreamInterrupted(f"{attempt.name} sent nothing until the end", backend=attempt.name)
        return attempt

    async def stop(self) -> list[Attempt]:
        """Close what still runs."""
        left, self._attempts, self._silent = [*self._attempts, *self._silent], [], []
        for attempt in left:
            await attempt.stream.aclose()
        return left


async def _no_pause(seconds: float) -> None:
    del seconds


def _open(backend: Backend, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
    return stepped(backend.stream(cleared))


def run(
    free: Abstract,
    world: World,
    events: tuple[Event, ...] = (),
    *,
    parts: Parts,
    cache_at: Location = Location.EDGE,
    tripped: Iterable[str] = (),
) -> Run:
    """Run the request of *world* to its end; its calls end as *events* say, and a cache is at *cache_at*."""
    policy, script, cache = free.policy, Scripted(events), RecordingCache(cache_at)
    backends = [
        RecordingBackend(name, world.location(name, location), script) for name, location in policy.backends.items()
    ]
    fleet = _WorldFleet(backends, policy, sensors=FixedSensors(), spending=Spending({}))
    fleet.signals = world.signals(policy, free.free)
    if isinstance(policy.resilience.hedge_after, Percentile):
        fleet.hear()
    guard = parts.guard(detectors_of(policy, world))
    pipeline = Pipeline(fleet, FixedPolicy(policy), guard, cache=AnswerCache(cache, guard), attempts=parts.attempts)
    routed = pipeline.route(world.prompt(), world.options())
    fleet.trip(tripped, policy.resilience.breaker.failures)
    error = _drain(pipeline, routed, script) if routed.decision.order else None
    return Run(routed=routed, calls=tuple(script.calls), cached=tuple(cache.calls), error=error)


def _drain(pipeline: Pipeline, routed: Routed, script: Scripted) -> HybridLLMError | None:
    pieces = None
    try:
        pieces = iterate(pipeline.answer(routed, _open, _no_pause, _Race).chunks())
        for chunk in pieces:
            script.received += chunk.text
    except HybridLLMError as error:
        return error
    finally:
        if pieces is not None:
            pieces.close()
    return None


def marks_in(text: str, policy: Policy) -> frozenset[str]:
    """The detectors whose marker is in *text*."""
    return frozenset(name for rule in policy.tags.values() for name in rule.detect if mark(name) in text)
