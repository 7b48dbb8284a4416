"""The bounded world of a verification: outcomes of conditions; detectors, backends and caches that record.

Nothing here decides: guard, policy and attempts are the real ones. A condition that reads only tags and objectives is
evaluated. Every other one is replaced by a switch: it holds, does not hold, or cannot be evaluated.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, cast

from hybrid_llm.core import errors
from hybrid_llm.core.clearance import Cleared, Purpose, require_clearance
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import GenerateOptions, Location, Message, Request
from hybrid_llm.core.signals import BackendState, Breaker, DeviceSignals, Signals
from hybrid_llm.lab.verify.report import finds_names, mark
from hybrid_llm.policies.language.schema import FieldSpec, Objectives, Schema
from hybrid_llm.policies.language.types import BOOL, Field, fields_of
from hybrid_llm.policies.policy import Policy, Rule
from hybrid_llm.router.caching.answers import CachedAnswer
from hybrid_llm.router.privacy.detectors import Finding

_OTHER: Final = {Location.EDGE: Location.CLOUD, Location.CLOUD: Location.EDGE}

Outcomes = Mapping[int, "Held"]
"""Index of a rule -> the outcome of its condition; NO for rules that are not there."""


class Held(StrEnum):
    """The outcome of a condition."""

    NO = "does not hold"
    YES = "holds"
    UNKNOWN = "cannot be evaluated"


class Switches:
    """Takes the place of the device's signals: `rule_3` is the outcome of the condition of `rules[3]`.

    A condition that cannot be evaluated has no attribute, like a missing sensor: reading it raises.
    """

    def __init__(self, free: Iterable[Rule], outcomes: Outcomes) -> None:
        for rule in free:
            held = outcomes.get(rule.index, Held.NO)
            if held is not Held.UNKNOWN:
                setattr(self, f"rule_{rule.index}", held is Held.YES)


class _Schema(Schema):
    """The names of a policy, and one switch of the device for each rule."""

    def __init__(self, backends: Mapping[str, Location], objectives: Objectives, rules: Sequence[Rule]) -> None:
        super().__init__(backends, objectives)
        for name in (f"rule_{rule.index}" for rule in rules):
            self._roots["device"][name] = FieldSpec(root="device", attribute=name, type=BOOL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstract:
    """A policy, of the same class as the original, in which the outcomes of the *free* rules are switches."""

    policy: Policy
    free: tuple[Rule, ...]

    def outcomes(self, *, most: int) -> tuple[list[Outcomes], str]:
        """The combinations of outcomes, those closest to "no condition holds" first, and a description of them.

        All combinations if there are at most *most*; else those in which few conditions hold or cannot be evaluated.
        """
        hard = [rule for rule in self.free if rule.kind == "exclude"]
        soft = [rule for rule in self.free if rule.kind != "exclude"]
        size = 3 ** len(hard) * (2 ** (len(soft) + 1) - 1)
        if size <= most:
            pairs = itertools.product(_hard(hard), _soft(soft))
            found: list[Outcomes] = sorted(({**one, **other} for one, other in pairs), key=len)
            return found, f"all {size} outcomes of {len(self.free)} conditions: held, not held, cannot be evaluated"
        found, deepest = _few(self.free, most)
        few = f"up to {deepest} of {len(self.free)} conditions hold or cannot be evaluated"
        return found, f"every combination in which {few}, and all of them: {len(found)}"


def abstract(policy: Policy) -> Abstract:
    """*policy* with switches for the conditions that depend on signals."""
    free = tuple(rule for rule in policy.rules if rule.condition is not None and not _known(rule))
    indices = {rule.index for rule in free}
    rules = tuple(_switched(rule) if rule.index in indices else rule for rule in policy.rules)
    schema = _Schema(policy.backends, policy.objectives, free)
    return Abstract(policy=replace(policy, rules=rules, schema=schema), free=free)


def _known(rule: Rule) -> bool:
    """Whether the condition reads nothing but tags and objectives."""
    assert rule.condition is not None
    fields = fields_of(rule.condition)
    return all(field.path[0] == "objectives" or field.path == ("request", "tags") for field in fields)


def _switched(rule: Rule) -> Rule:
    name = f"rule_{rule.index}"
    node = Field(start=0, end=len(name), type=BOOL, path=("device", name), key=f"device.{name}")
    return replace(rule, condition=node, text=name)


def _hard(rules: Sequence[Rule]) -> Iterator[Outcomes]:
    for combination in itertools.product(Held, repeat=len(rules)):
        yield _deviations(rules, combination)


def _soft(rules: Sequence[Rule]) -> Iterator[Outcomes]:
    """Which rule is the first that holds; the rules after it are never evaluated."""
    for first in range(len(rules) + 1):
        last = {rules[first].index: Held.YES} if first < len(rules) else {}
        for way in itertools.product((Held.NO, Held.UNKNOWN), repeat=first):
            yield {**_deviations(rules[:first], way), **last}


def _few(rules: Sequence[Rule], most: int) -> tuple[list[Outcomes], int]:
    """The combinations in which up to n conditions hold or cannot be evaluated, for the largest n that fits; and n."""
    found: list[Outcomes] = [dict.fromkeys((rule.index for rule in rules), held) for held in (Held.YES, Held.UNKNOWN)]
    deepest = 0
    while deepest < len(rules):
        size = math.comb(len(rules), deepest + 1) * 2 ** (deepest + 1)
        if deepest and len(found) + size > most:
            break
        deepest += 1
        for some in itertools.combinations(rules, deepest):
            ways = itertools.product((Held.YES, Held.UNKNOWN), repeat=deepest)
            found += [_deviations(some, way) for way in ways]
    return sorted([{}, *found], key=len), deepest


def _deviations(rules: Sequence[Rule], combination: Sequence[Held]) -> dict[int, Held]:
    return {rule.index: held for rule, held in zip(rules, combination, strict=True) if held is not Held.NO}


class Fitness(StrEnum):
    """The state of a backend."""

    READY = "is ready"
    UNREADY = "is not ready"
    OPEN = "has an open breaker"
    FAILING = "has an open breaker, and serves by its probe"
    HALF_OPEN = "has a half-open breaker"
    ABSENT = "is unknown"
    MOVED = "runs at another location than the policy declares"
    DISGUISED = "runs at another location than the policy declares, and its state does not report it"


class Position(StrEnum):
    """Where in the request a detector finds something."""

    MESSAGE = "a message"
    EARLIER = "an earlier message"
    SCHEMA = "the output schema"
    STOP = "a stop text"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One request in one situation. By default: no tag, nothing found, no condition holds, all backends ready."""

    declared: frozenset[str] = frozenset()
    finds: frozenset[str] = frozenset()
    fails: frozenset[str] = frozenset()
    where: Position = Position.MESSAGE
    rules: Outcomes = field(default_factory=dict)
    states: Mapping[str, Fitness] = field(default_factory=dict)
    ranking: tuple[str, ...] = ()
    """The order of the backends under a `rank` rule."""

    def options(self) -> GenerateOptions:
        """The keyword options that the app passes."""
        found = " ".join(mark(name) for name in sorted(self.finds))
        options: GenerateOptions = {"privacy": self.declared}
        if self.where is Position.SCHEMA:
            options["output_schema"] = {"title": found}
        elif self.where is Position.STOP:
            options["stop"] = (found,)
        return options

    def prompt(self) -> list[Message]:
        """The messages that the app passes."""
        found = " ".join(mark(name) for name in sorted(self.finds))
        first = Message(role="user", content=f"words {found}" if self.where is Position.EARLIER else "words")
        last = Message(role="user", content=f"words {found}" if self.where is Position.MESSAGE else "words")
        return [first, last]

    def signals(self, policy: Policy, free: Iterable[Rule]) -> Signals:
        """The signals, with the switches of the *free* rules."""
        states = {name: _state(name, location, self) for name, location in policy.backends.items()}
        known = {name: state for name, state in states.items() if self.states.get(name) is not Fitness.ABSENT}
        return Signals(device=cast(DeviceSignals, Switches(free, self.rules)), backends=known)

    def location(self, name: str, declared: Location) -> Location:
        """The real location of the backend *name*."""
        moved = self.states.get(name) in {Fitness.MOVED, Fitness.DISGUISED}
        return _OTHER[declared] if moved else declared

    def steps(self, policy: Policy) -> Iterator[str]:
        """What differs from the default, as text."""
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


def _state(name: str, declared: Location, world: World) -> BackendState:
    fitness = world.states.get(name, Fitness.READY)
    score = float(world.ranking.index(name)) if name in world.ranking else 0.0
    opened = {Fitness.OPEN: Breaker.OPEN, Fitness.FAILING: Breaker.OPEN, Fitness.HALF_OPEN: Breaker.HALF_OPEN}
    return BackendState(
        name=name,
        location=_OTHER[declared] if fitness is Fitness.MOVED else declared,
        sealed=True,  # the widest that a policy may permit
        ready=fitness is not Fitness.UNREADY,
        breaker=opened.get(fitness, Breaker.CLOSED),
        serves=fitness is Fitness.FAILING,
        context_window=2**31 - 1,
        predicted_ttft_ms=score,
        cost_per_1k_tokens=score,
        energy_per_1k_tokens_j=score,
        quality=1.0 - score,
    )


@dataclass(frozen=True, slots=True)
class MarkerDetector:
    """A detector that finds exactly its own marker, or raises."""

    name: str
    fails: bool = False

    @property
    def finds_names(self) -> bool:
        """Whether the detector of this name may be a model."""
        return finds_names((self.name,))

    def find(self, text: str) -> Iterator[Finding]:
        """Yield the positions of the marker."""
        if self.fails:
            raise RuntimeError("this detector fails")
        for match in re.finditer(re.escape(mark(self.name)), text):
            yield Finding(kind=self.name, start=match.start(), end=match.end())


class Silence(BaseException):
    """Raised by a call that gives no chunk until a hedge is started. No error, so only the race catches it."""


class Kind(StrEnum):
    """How a call of a backend ends."""

    ANSWERS = "answers"
    WRITES = "answers, and its answer contains what {mark} finds"
    DOWN = "cannot be reached"
    FULL = "is overloaded"
    UNFIT = "cannot take such a request"
    REFUSES = "refuses the request"
    LATE = "exceeds the deadline"
    UNTRUSTED = "presents a wrong certificate"
    CUT = "breaks off in the middle of its answer"
    CUT_WRITING = "breaks off after writing what {mark} finds"
    SILENT = "is silent until a hedge is started"


@dataclass(frozen=True, slots=True)
class Event:
    """How one call ends; *mark* names the detector that finds the text it writes."""

    kind: Kind
    mark: str = ""

    def text(self) -> str:
        """As text."""
        return self.kind.format(mark=self.mark)

    def error(self, name: str) -> BaseException | None:
        """What the backend raises."""
        table: dict[Kind, BaseException] = {
            Kind.DOWN: errors.BackendUnavailable("down", backend=name),
            Kind.FULL: errors.BackendOverloaded("full", backend=name, retry_after=0.001),
            Kind.UNFIT: errors.RequestRejected("too long", backend=name, reason="context_overflow"),
            Kind.REFUSES: errors.RequestRejected("nonsense", backend=name),
            Kind.LATE: errors.DeadlineExceeded("late", backend=name),
            Kind.UNTRUSTED: errors.UntrustedPeer("another name", backend=name),
            Kind.CUT: errors.StreamInterrupted("cut", backend=name),
            Kind.CUT_WRITING: errors.StreamInterrupted("cut", backend=name),
            Kind.SILENT: Silence(),
        }
        return table.get(self.kind)


@dataclass(frozen=True, slots=True)
class Call:
    """What a backend or a cache received, at its real location; a cache has no *event*."""

    name: str
    location: Location
    texts: tuple[str, ...]
    event: Event | None = None
    answer: str = ""
    """Of a cache: the answer to store."""
    partial: str = ""
    """The partial answer that the app had when the call was made."""


class Scripted:
    """How the calls of one request end, in order; further calls are answered."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        self._events = list(events)
        self.calls: list[Call] = []
        self.received = ""

    def next(self, name: str, location: Location, request: Request) -> Event:
        """Record a call, and return how it ends."""
        event = self._events.pop(0) if self._events else Event(Kind.ANSWERS)
        self.calls.append(Call(name, location, tuple(request.visible_text()), event, partial=self.received))
        return event


class RecordingBackend:
    """A backend that records its requests; like every backend it requires a clearance for its location."""

    def __init__(self, name: str, location: Location, script: Scripted) -> None:
        self.name = name
        self.location = location
        self.capabilities = Capabilities(model="recording", context_window=0)
        self._script = script

    def state(self) -> BackendState:
        """Ready; `World.signals` replaces it."""
        return BackendState(name=self.name, location=self.location)

    def count_tokens(self, request: Request) -> int:
        """An arbitrary number."""
        return len(request.messages)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Record the request, echo it, and end as the script says."""
        request = require_clearance(cleared, self.location, seals=True)
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
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


class RecordingCache:
    """A cache that records what it is asked to store, and stores nothing."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.calls: list[Call] = []

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """Record the request."""
        request = require_clearance(cleared, self.location, Purpose.CACHE)
        self.calls.append(Call("cache", self.location, tuple(request.visible_text())))
        return None

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Record the request and the answer."""
        request = require_clearance(cleared, self.location, Purpose.CACHE)
        self.calls.append(Call("cache", self.location, tuple(request.visible_text()), answer=answer.text))

    def close(self) -> None:
        """Do nothing."""
