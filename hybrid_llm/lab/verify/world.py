"""The world of a verification: a request, detectors, backends and a cache that note what they are given.

Nothing here decides: guard, policy and attempts are the real ones, joined by the real pipeline.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, cast

from hybrid_llm.core.clearance import Cleared, Purpose, require_clearance
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    RequestRejected,
    StreamInterrupted,
    UntrustedPeer,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import GenerateOptions, Location, Message, Request
from hybrid_llm.core.signals import BackendState, Breaker, DeviceSignals, Signals
from hybrid_llm.lab.verify.report import mark
from hybrid_llm.lab.verify.rules import Held, Outcomes, Switches
from hybrid_llm.policies import Policy
from hybrid_llm.policies.rules import Rule
from hybrid_llm.router.cache import CachedAnswer
from hybrid_llm.router.privacy.detectors import Finding

_OTHER: Final = {Location.EDGE: Location.CLOUD, Location.CLOUD: Location.EDGE}


class Fitness(StrEnum):
    """How a backend stands."""

    READY = "is ready"
    UNREADY = "is not ready"
    OPEN = "has an open breaker"
    HALF_OPEN = "has a half open breaker"
    ABSENT = "is not known at all"
    MOVED = "runs at another place than the policy was told"
    DISGUISED = "runs at another place than the policy was told, and its state does not say so"


class Hidden(StrEnum):
    """Where in a request stands what a detector finds."""

    MESSAGE = "a message"
    EARLIER = "an earlier message"
    SCHEMA = "the output schema"
    STOP = "a stop text"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One request in one situation. What is not said is harmless: no tag, nothing found, no rule holds, all ready."""

    declared: frozenset[str] = frozenset()
    finds: frozenset[str] = frozenset()
    fails: frozenset[str] = frozenset()
    where: Hidden = Hidden.MESSAGE
    rules: Outcomes = field(default_factory=dict)
    states: Mapping[str, Fitness] = field(default_factory=dict)
    ranking: tuple[str, ...] = ()
    """The order in which a `rank` puts the backends."""

    def options(self) -> GenerateOptions:
        """What the app passes beside the prompt."""
        found = " ".join(mark(name) for name in sorted(self.finds))
        given: GenerateOptions = {"privacy": self.declared}
        if self.where is Hidden.SCHEMA:
            given["output_schema"] = {"title": found}
        elif self.where is Hidden.STOP:
            given["stop"] = (found,)
        return given

    def prompt(self) -> list[Message]:
        """What the app asks."""
        found = " ".join(mark(name) for name in sorted(self.finds))
        first = Message(role="user", content=f"words {found}" if self.where is Hidden.EARLIER else "words")
        last = Message(role="user", content=f"words {found}" if self.where is Hidden.MESSAGE else "words")
        return [first, last]

    def signals(self, policy: Policy, free: Iterable[Rule]) -> Signals:
        """What is known: the device tells each rule of *free* its outcome."""
        states = {name: _state(name, place, self) for name, place in policy.backends.items()}
        known = {name: state for name, state in states.items() if self.states.get(name) is not Fitness.ABSENT}
        return Signals(device=cast(DeviceSignals, Switches(free, self.rules)), backends=known)

    def place(self, name: str, told: Location) -> Location:
        """Where the backend *name* really is."""
        moved = self.states.get(name) in {Fitness.MOVED, Fitness.DISGUISED}
        return _OTHER[told] if moved else told

    def steps(self, policy: Policy) -> Iterator[str]:
        """What is not harmless, in words."""
        yield f"the app declares {', '.join(sorted(self.declared))}" if self.declared else "the app declares no tag"
        for name in sorted(self.finds):
            tags = [tag for tag, rule in policy.tags.items() if name in rule.detect]
            yield f"the detector {name} finds something in {self.where}: {', '.join(tags)}"
        yield from (f"the detector {name} fails" for name in sorted(self.fails))
        for index, held in self.rules.items():
            rule = next(rule for rule in policy.rules if rule.index == index)
            if held is not Held.NO:
                yield f"{rule.label} {rule.kind} at {rule.place} {held}: {rule.because}"
        yield from (f"{name} {fitness}" for name, fitness in self.states.items() if fitness is not Fitness.READY)


def _state(name: str, told: Location, world: World) -> BackendState:
    fitness = world.states.get(name, Fitness.READY)
    score = float(world.ranking.index(name)) if name in world.ranking else 0.0
    breaker = {Fitness.OPEN: Breaker.OPEN, Fitness.HALF_OPEN: Breaker.HALF_OPEN}.get(fitness, Breaker.CLOSED)
    return BackendState(
        name=name,
        location=_OTHER[told] if fitness is Fitness.MOVED else told,
        ready=fitness is not Fitness.UNREADY,
        breaker=breaker,
        context_window=2**31 - 1,
        predicted_ttft_ms=score,
        cost_per_1k_tokens=score,
        energy_per_1k_tokens_j=score,
    )


@dataclass(frozen=True, slots=True)
class Planted:
    """A detector that finds its mark, and nothing else; or raises."""

    name: str
    fails: bool = False

    def find(self, text: str) -> Iterator[Finding]:
        """Yield where the mark stands."""
        if self.fails:
            raise RuntimeError("this detector fails")
        for match in re.finditer(re.escape(mark(self.name)), text):
            yield Finding(kind=self.name, start=match.start(), end=match.end())


class Silence(Exception):
    """A backend that says nothing until a hedge was started."""


class Kind(StrEnum):
    """How a call of a backend ends."""

    ANSWERS = "answers"
    WRITES = "answers, and its answer holds what {mark} finds"
    DOWN = "cannot be reached"
    FULL = "is overloaded"
    UNFIT = "cannot take such a request"
    REFUSES = "refuses the request"
    LATE = "is too late"
    UNTRUSTED = "shows a wrong certificate"
    CUT = "breaks off in the middle of its answer"
    CUT_WRITING = "breaks off after writing what {mark} finds"
    SILENT = "is silent until a hedge is started"


@dataclass(frozen=True, slots=True)
class Event:
    """How one call ends; *mark* is the detector that finds what is written."""

    kind: Kind
    mark: str = ""

    def text(self) -> str:
        """In words."""
        return self.kind.format(mark=self.mark)

    def error(self, name: str) -> Exception | None:
        """What the backend raises in the end."""
        table: dict[Kind, Exception] = {
            Kind.DOWN: BackendUnavailable("down", backend=name),
            Kind.FULL: BackendOverloaded("full", backend=name, retry_after=0.001),
            Kind.UNFIT: RequestRejected("too long", backend=name, reason="context_overflow"),
            Kind.REFUSES: RequestRejected("nonsense", backend=name),
            Kind.LATE: DeadlineExceeded("late", backend=name),
            Kind.UNTRUSTED: UntrustedPeer("another name", backend=name),
            Kind.CUT: StreamInterrupted("cut", backend=name),
            Kind.CUT_WRITING: StreamInterrupted("cut", backend=name),
            Kind.SILENT: Silence(),
        }
        return table.get(self.kind)


@dataclass(frozen=True, slots=True)
class Call:
    """What was handed to a backend or a cache, at the place where it really is; *event* is empty for a cache."""

    name: str
    place: Location
    texts: tuple[str, ...]
    event: Event | None = None
    answer: str = ""
    """Of a cache: what was to be kept."""
    given: str = ""
    """What the app had of the answer when the call was made."""


class Scripted:
    """What happens to the calls of one request, one after the other; where nothing is said, they are answered."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        self._events = list(events)
        self.calls: list[Call] = []
        self.received = ""

    def next(self, name: str, place: Location, request: Request) -> Event:
        """Note a call, and tell how it ends."""
        event = self._events.pop(0) if self._events else Event(Kind.ANSWERS)
        self.calls.append(Call(name, place, tuple(request.visible_text()), event, given=self.received))
        return event


class NotingBackend:
    """A backend that notes what reaches it; like every backend it demands a clearance for the place where it is."""

    def __init__(self, name: str, location: Location, script: Scripted) -> None:
        self.name = name
        self.location = location
        self.capabilities = Capabilities(model="noting", context_window=0)
        self._script = script

    def state(self) -> BackendState:
        """Ready; the world says otherwise where it is not."""
        return BackendState(name=self.name, location=self.location)

    def count_tokens(self, request: Request) -> int:
        """A number."""
        return len(request.messages)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Note the request, repeat it, and end as the script says."""
        request = require_clearance(cleared, self.location)
        event = self._script.next(self.name, self.location, request)
        if event.kind in {Kind.ANSWERS, Kind.WRITES, Kind.CUT, Kind.CUT_WRITING}:
            written = mark(event.mark) if event.mark else request.messages[-1].content
            yield Chunk(text=f"{written} ")
        error = event.error(self.name)
        if error is not None:
            raise error
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=Usage(prompt_tokens=1, completion_tokens=1))

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """As `stream`."""
        for chunk in self.stream(cleared):
            yield chunk

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""


class NotingCache:
    """A cache at a place, which notes what it is to keep and keeps nothing."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.calls: list[Call] = []

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """Note the request."""
        request = require_clearance(cleared, self.location, Purpose.CACHE)
        self.calls.append(Call("cache", self.location, tuple(request.visible_text())))
        return None

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Note the request and the answer."""
        request = require_clearance(cleared, self.location, Purpose.CACHE)
        self.calls.append(Call("cache", self.location, tuple(request.visible_text()), answer=answer.text))

    def close(self) -> None:
        """Nothing is kept."""
