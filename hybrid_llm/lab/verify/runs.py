"""One request through the real pipeline, from the prompt to the end of its attempts, in a world where all is noted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import HybridLLMError, StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.lab.verify.report import mark
from hybrid_llm.lab.verify.rules import Abstract
from hybrid_llm.lab.verify.world import Call, Event, NotingBackend, NotingCache, Planted, Scripted, Silence, World
from hybrid_llm.policies import FixedPolicy, Policy
from hybrid_llm.router.execution.attempts import Attempts
from hybrid_llm.router.execution.drivers import iterate, stepped
from hybrid_llm.router.execution.hedging import Attempt
from hybrid_llm.router.pipeline import Pipeline, Routed
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.privacy.detectors import Detector
from hybrid_llm.router.signals import FixedSensors

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


class _Model(Pipeline):
    """The real pipeline, but for one hop: what is known of the world is given, not measured."""

    given: Signals

    def snapshot(self, request: RequestMetadata) -> Signals:
        """What the world says."""
        del request
        return self.given

    def hear(self) -> None:
        """Let every backend have answered often, so that it is known how long one usually takes."""
        for name in self.backends:
            for _ in range(_ENOUGH_TIMES):
                self._recent[name].add(100.0)

    def trip(self, names: Iterable[str]) -> None:
        """Open the breakers of *names*: others failed there while this request was decided."""
        for name in names:
            for _ in range(self.policy.resilience.breaker_failures):
                self._breakers[name].failed()


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
    model = _Model(
        [NotingBackend(name, world.place(name, told), script) for name, told in policy.backends.items()],
        FixedPolicy(policy),
        sensors=FixedSensors(),
        detectors=(),
        hooks=(),
        defaults=Defaults(),
        prices={},
        cache=cache,
        guard=parts.guard(detectors_of(policy, world)),
        attempts=parts.attempts,
    )
    model.given = world.signals(policy, free.free)
    if policy.resilience.hedge_quantile is not None:
        model.hear()
    routed = model.route(world.prompt(), world.options())
    model.trip(tripped)
    error = _drain(model, routed, script) if routed.decision.order else None
    return Run(routed=routed, calls=tuple(script.calls), kept=tuple(cache.calls), error=error)


def _drain(model: _Model, routed: Routed, script: Scripted) -> HybridLLMError | None:
    pieces = None
    try:
        pieces = iterate(model.answer(routed, _open, _no_pause, _Race).chunks())
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
