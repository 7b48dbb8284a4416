"""The third stage of a verification: runs requests to their end through every failure, and records each call."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.request import Location
from hybrid_llm.lab.verify.deciding import Decided
from hybrid_llm.lab.verify.report import ATTEMPTED, DECIDED, KEPT, REACHED, Ledger, Reach, Verdict, judge, mark
from hybrid_llm.lab.verify.rules import Abstract
from hybrid_llm.lab.verify.runs import Parts, Run, marks_in, run
from hybrid_llm.lab.verify.world import Call, Event, Fitness, Kind, World
from hybrid_llm.policies import Policy

_ALWAYS: Final = (Kind.DOWN, Kind.CUT, Kind.FULL, Kind.UNFIT, Kind.REFUSES, Kind.LATE, Kind.UNTRUSTED)
_DEEP: Final = 2
"""From this call on only the first two of them are told apart: those behind which most can follow."""

_WHOLE: Final = 240
"""Most runs of one decision for the first set of tags that comes to it."""
_SHORT: Final = 30
"""Most runs of it for each further set of tags: fewer failures in a row, every failure still."""
_MOST_MARKS: Final = 3


def attempt_all(free: Abstract, decided: Sequence[Decided], parts: Parts, ledger: Ledger) -> dict[str, str]:
    """Take every decision to its end; returns in words what was looked at."""
    seen: set[tuple[str, ...]] = set()
    deepest, cut = 0, False
    for one in decided:
        order = one.decision.order
        explored = _Attempting(free, one, parts, ledger)
        depth, more = explored.all(_SHORT if order in seen else _WHOLE)
        if order not in seen:
            deepest, cut = max(deepest, depth), cut or more
        seen.add(order)
    failures = [kind for kind in _kinds(free.policy) if kind.kind is not Kind.ANSWERS]
    names = sorted({kind.kind.split(",")[0].replace(" what {mark} finds", "") for kind in failures})
    limit = f", the first {_WHOLE} runs of each decision" if cut else ""
    return {
        "failures": f"up to {deepest} calls in a row, each of which {', '.join(names)}{limit}; breakers that open",
        "places": "each backend elsewhere than the policy was told; a cache on the device and one in the cloud",
    }


def _kinds(policy: Policy) -> list[Event]:
    """Everything that a call may end in, under the resilience of *policy*."""
    limits = policy.resilience
    found = [Event(kind) for kind in _ALWAYS]
    if limits.hedge_after_s is not None or limits.hedge_quantile is not None:
        found.append(Event(Kind.SILENT))
    marks = [rule.detect[0] for rule in policy.tags.values() if rule.detect][:_MOST_MARKS]
    found += [Event(Kind.WRITES, name) for name in marks]
    return found + ([Event(Kind.CUT_WRITING, name) for name in marks] if limits.continue_streams else [])


class _Attempting:
    """All ends of one decision."""

    def __init__(self, free: Abstract, decided: Decided, parts: Parts, ledger: Ledger) -> None:
        self._free, self._decided, self._parts, self._ledger = free, decided, parts, ledger
        self._policy = free.policy

    def all(self, most: int) -> tuple[int, bool]:
        """Run at most *most* ways to fail, the shortest first; the longest row of calls, and whether more were left."""
        order = self._decided.decision.order
        world = self._decided.world
        for changed in self._changed(world):
            self._run(changed, ())
        self._run(world, (), keep_at=Location.CLOUD)
        for name in order:
            self._run(world, (), tripped=(name,))
        return self._tree(world, most)

    def _changed(self, world: World) -> Iterator[World]:
        """The same, with one backend of the order elsewhere than its state says."""
        for name in self._decided.decision.order:
            yield replace(world, states={**world.states, name: Fitness.DISGUISED})

    def _tree(self, world: World, most: int) -> tuple[int, bool]:
        kinds = _kinds(self._policy)
        waiting: deque[tuple[Event, ...]] = deque([()])
        deepest = 0
        for _ in range(most):
            if not waiting:
                return deepest, False
            events = waiting.popleft()
            deepest = max(deepest, len(events))
            came = self._run(world, events)
            if events and events[-1].kind is Kind.WRITES:
                self._run(world, events, keep_at=Location.CLOUD)
            if len(came.calls) > len(events):
                waiting.extend((*events, kind) for kind in (kinds if len(events) < _DEEP else kinds[:_DEEP]))
        return deepest, bool(waiting)

    def _run(
        self,
        world: World,
        events: tuple[Event, ...],
        *,
        keep_at: Location = Location.EDGE,
        tripped: tuple[str, ...] = (),
    ) -> Run:
        self._ledger.runs += 1
        came = run(self._free, world, events, parts=self._parts, keep_at=keep_at, tripped=tripped)
        _Check(self._policy, world, came, self._ledger, tripped).all(self._decided.decision.order)
        return came


class _Check:
    """Holds one run against what the tags allow."""

    def __init__(self, policy: Policy, world: World, came: Run, ledger: Ledger, tripped: tuple[str, ...]) -> None:
        self._policy, self._world, self._came, self._ledger = policy, world, came, ledger
        self._tripped = tripped

    def all(self, order: tuple[str, ...]) -> None:
        """Check decision, calls, cache and end."""
        tags = self._came.routed.metadata.privacy
        if self._came.routed.decision.order != order:
            said = "but on the way of a request it decides otherwise"
            self._ledger.violate(tags, DECIDED, lambda: self._steps(0, said))
        for index, call in enumerate(self._came.calls):
            self._call(index, call)
        for call in self._came.kept:
            self._kept(call)
        if isinstance(self._came.error, PrivacyViolation) and Fitness.DISGUISED not in self._world.states.values():
            said = f"then the guard has to stop what comes next: {self._came.error}"
            self._ledger.violate(tags, ATTEMPTED, lambda: self._steps(len(self._came.calls), said))

    def _verdict(self, written: str) -> Verdict:
        finds = self._world.finds | marks_in(written, self._policy)
        return judge(self._policy.tags, self._world.declared, finds, self._world.fails)

    def _call(self, index: int, call: Call) -> None:
        verdict = self._verdict(call.given)
        left = [name for name in sorted(verdict.hidden) if any(mark(name) in text for text in call.texts)]
        hidden = call.place is Location.CLOUD and bool(verdict.hidden)
        form = "with pseudonyms" if hidden and not left else "as it is"
        called = f"{_named(call)} is called with the request {form}"
        if call.name not in self._came.routed.decision.order:
            self._broke(verdict, ATTEMPTED, index, called, "but the policy did not decide for it")
        elif call.place not in verdict.allowed:
            self._broke(verdict, REACHED, index, called, f"but {verdict.why}")
        elif call.place is Location.CLOUD and left:
            self._broke(verdict, REACHED, index, called, f"but what {left[0]} finds must be replaced there")
        elif Fitness.DISGUISED not in self._world.states.values():
            reach = Reach(place=call.place, pseudonyms=hidden)
            self._ledger.reach(verdict.tags, reach, lambda: self._steps(index, called))

    def _kept(self, call: Call) -> None:
        verdict = self._verdict(call.answer)
        said = f"a cache on {call.place} {'is to keep the answer' if call.answer else 'is asked'}"
        if call.place not in verdict.cacheable:
            self._broke(verdict, KEPT, len(self._came.calls), said, f"but {verdict.why or 'nothing may be kept there'}")
        elif call.answer and call.place is Location.EDGE and Fitness.DISGUISED not in self._world.states.values():
            reach = Reach(place=call.place, kept=True)
            self._ledger.reach(verdict.tags, reach, lambda: self._steps(len(self._came.calls), said))

    def _broke(self, verdict: Verdict, promise: str, index: int, *said: str) -> None:
        self._ledger.violate(verdict.tags, promise, lambda: self._steps(index, *said))

    def _steps(self, index: int, *said: str) -> tuple[str, ...]:
        """The world, the decision, the first *index* calls and how they ended, and what is *said* of the next."""
        decision = self._came.routed.decision
        decided = f"the policy decides: {' > '.join(decision.order) or 'nobody'} ({decision.rule}: {decision.because})"
        opened = [f"the breaker of {name} opens" for name in self._tripped]
        ended = [f"{call.name} {call.event.text()}" for call in self._came.calls[:index] if call.event is not None]
        return (*self._world.steps(self._policy), decided, *opened, *ended, *said)


def _named(call: Call) -> str:
    return call.name if call.name == call.place else f"{call.name}, which is on {call.place},"
