"""One request through the real pipeline, from the prompt to the end of its attempts, in a world where all is noted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import HybridLLMError, StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.lab.verify.report import mark
from hybrid_llm.lab.verify.rules import Abstract
from hybrid_llm.lab.verify.world import Call, Event, NotingBackend, NotingCache, Planted, Scripted, Silence, World
from hybrid_llm.policies import FixedPolicy, Objectives, Policy
from hybrid_llm.router.cache import AnswerCache
from hybrid_llm.router.execution.answer import iterate, stepped
from hybrid_llm.router.execution.attempts import Attempts
from hybrid_llm.router.execution.call import Attempt, Routed
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.privacy.detectors import Detector
from hybrid_llm.router.signals import FixedSensors
from hybrid_llm.router.spending.charge import Spending

_ENOUGH_TIMES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The code that is under verification. Tests put mistakes in its place, and see them found."""

    guard: Callable[[Iterable[Detector]], PrivacyGuard] = PrivacyGuard
    attempts: type[Attempts] = Attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of one request."""

    routed: Routed
    calls: tuple[Call, ...]
    kept: tuple[Call, ...]
    error: HybridLLMError | None = field(default=None)


def detectors_of(policy: Policy, world: World) -> list[Detector]:
    """Every detector that the policy names, as the world has it."""
    names = sorted({name for rule in policy.tags.values() for name in rule.detect})
    return [Planted(name, name in world.fails) for name in names]


class _WorldFleet(Fleet):
    """The real fleet, except that its signals are the world's instead of measured ones."""

    signals: Signals

    def snapshot(self, metadata: RequestMetadata, objectives: Objectives) -> Signals:
        """The signals of the world."""
        del metadata, objectives
        return self.signals

    def hear(self) -> None:
        """Let every backend have answered often, so that it is known how long one usually takes."""
        for times in self.first_token_times.values():
            for _ in range(_ENOUGH_TIMES):
                times.add(100.0)

    def trip(self, names: Iterable[str], failures: int) -> None:
        """Open the breakers of *names*: other requests failed there while this one was decided."""
        for name in names:
            for _ in range(failures):
                self.health[name].failed()


class _Race:
    """Waits for one lane at a time; one that is silent runs on while the next is started."""

    def __init__(self) -> None:
        self._lanes: list[Attempt] = []
        self._silent: list[Attempt] = []

    @property
    def running(self) -> int:
        """Started and not over."""
        return len(self._lanes) + len(self._silent)

    def start(self, lane: Attempt) -> None:
        """Let *lane* run when it is waited for."""
        self._lanes.append(lane)

    async def ready(self, timeout: float | None) -> Attempt | None:
        """The next lane that has something to tell; None where one is silent and another may be started."""
        if self._lanes:
            lane = self._lanes.pop(0)
            try:
                await lane.begin()
            except Silence:
                self._silent.append(lane)
            else:
                return lane
        if timeout is not None:
            return None
        lane = self._silent.pop(0)
        lane.error = StreamInterrupted(f"{lane.name} was silent to the end", backend=lane.name)
        return lane

    async def stop(self) -> list[Attempt]:
        """Close what still runs."""
        left, self._lanes, self._silent = [*self._lanes, *self._silent], [], []
        for lane in left:
            await lane.stream.aclose()
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
    keep_at: Location = Location.EDGE,
    tripped: Iterable[str] = (),
) -> Run:
    """Take the request of *world* all the way; its calls end as *events* say, and a cache is at *keep_at*."""
    policy, script, cache = free.policy, Scripted(events), NotingCache(keep_at)
    backends = [NotingBackend(name, world.place(name, location), script) for name, location in policy.backends.items()]
    fleet = _WorldFleet(backends, policy, sensors=FixedSensors(), spending=Spending({}))
    fleet.signals = world.signals(policy, free.free)
    if policy.resilience.hedge_quantile is not None:
        fleet.hear()
    guard = parts.guard(detectors_of(policy, world))
    pipeline = Pipeline(fleet, FixedPolicy(policy), guard, cache=AnswerCache(cache, guard), attempts=parts.attempts)
    routed = pipeline.route(world.prompt(), world.options())
    fleet.trip(tripped, policy.resilience.breaker.failures)
    error = _drain(pipeline, routed, script) if routed.decision.order else None
    return Run(routed=routed, calls=tuple(script.calls), kept=tuple(cache.calls), error=error)


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
    """The detectors whose mark stands in *text*."""
    return frozenset(name for rule in policy.tags.values() for name in rule.detect if mark(name) in text)
