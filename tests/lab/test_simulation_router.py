"""The simulator and the router make the same decisions and the same calls: one script of faults, played through both.

The router runs as apps run it, `HybridLLM.agenerate` in an event loop, but the loop's time is virtual: it jumps to the
next timer instead of waiting.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from contextlib import aclosing

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.core.clearance import require_clearance
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    HybridLLMError,
    ProtocolMismatch,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.protocols import DETECTOR_NAMES
from hybrid_llm.core.request import Location
from hybrid_llm.core.threads import at_once
from hybrid_llm.lab.simulate.engine import Simulation, Status
from hybrid_llm.lab.simulate.trace import Arrival, Trace
from hybrid_llm.lab.simulate.world import Setting
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

BACKENDS = {"edge": Location.EDGE, "cloud": Location.CLOUD, "eu": Location.CLOUD}
ERRORS = {
    "down": BackendUnavailable,
    "full": BackendOverloaded,
    "mismatch": ProtocolMismatch,
    "cut": StreamInterrupted,
    "unfit": RequestRejected,
    "refused": RequestRejected,
}
VALUES = {"phi": "MRN: 4711-22-93", "pii": "Jane.Doe@example.org", "money": "DE89 3704 0044 0532 0130 00"}
"""What the detectors of a tag find."""
MAX_TOKENS = 8
LATENCIES = (0.05, 0.17, 0.33, 0.61)
"""Seconds to the first token or the failure."""
OFFSETS = {"edge": 0.001, "cloud": 0.003, "eu": 0.007}
"""What each backend adds, so that no two things happen at once: which one counts first then is no promise."""


@dataclasses.dataclass(frozen=True)
class Fate:
    """How one call ends: *kind* is `answers` or a key of ERRORS, after *tokens* where it is cut."""

    latency: float
    kind: str
    tokens: int

    def error(self, name):
        reason = {"unfit": {"reason": "context_overflow"}, "mismatch": {"ours": 1, "theirs": 2}}.get(self.kind, {})
        return ERRORS[self.kind](self.kind, backend=name, **reason)

    async def play(self, name, sleep):
        """The chunks of the call, for either side."""
        await sleep(self.latency)
        if self.kind in {"answers", "cut"}:
            for _ in range(self.tokens):
                yield Chunk(text=".", tokens=1)
        if self.kind != "answers":
            raise self.error(name)
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP)


class Script:
    """The fates of the calls of each backend, in the order in which they are made; later ones are answered."""

    def __init__(self, fates):
        self._left = {name: list(found) for name, found in fates.items()}

    def next(self, name):
        left = self._left[name]
        return left.pop(0) if left else Fate(latency=0.05, kind="answers", tokens=2)


class ScriptedBackend(FakeBackend):
    """A backend of the client."""

    def __init__(self, name, location, script):
        super().__init__(name, location)
        self._script = script

    async def astream(self, cleared):
        require_clearance(cleared, self.location)
        async with aclosing(self._script.next(self.name).play(self.name, asyncio.sleep)) as chunks:
            async for chunk in chunks:
                yield chunk


class ScriptedSimulation(Simulation):
    """The simulator, with its service times replaced by the script; it keeps what was decided and tried."""

    def __init__(self, policy, trace, script):
        self.script, self.made = script, []
        super().__init__(policy, trace, Setting())

    def _make_backend(self, name, location):
        backend = super()._make_backend(name, location)
        backend.endpoint_health = backend._probes[0]  # as of a fake, whose calls the attempts report
        backend.stream = lambda job, partial: self.script.next(name).play(name, self._clock.sleep)
        return backend

    def _attempts(self, job, decision, signals):
        self.made.append((decision, super()._attempts(job, decision, signals)))
        return self.made[-1][1]


class Names:
    """Takes the place of a model that finds names; there are none in the texts."""

    name, finds_names = "my_names", True

    def find(self, text):
        return iter(())


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which no time passes while it waits."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


class Inline:
    """Stands in for a client's threads, for whose time the virtual loop would not wait."""

    run = staticmethod(at_once)

    def close(self):
        pass


def seen(decision, records, continuations):
    """What must agree of one request: decision, calls in order with their ends and hedges, continuations."""
    return (
        decision.order,
        dict(decision.excluded),
        [(record.backend, record.error, record.hedge) for record in records],
        [(one.backend, one.tokens) for one in continuations],
    )


def through_the_router(policy, tags, fates):
    script, events, ends = Script(fates), [], []

    async def run(client):
        for one in tags:
            try:
                text = " ".join(["hello", *(VALUES[tag] for tag in sorted(one.found))])
                reply = await client.agenerate(text, privacy=one.declared, max_tokens=MAX_TOKENS)
                ends.append(BACKENDS[reply.backend])
            except HybridLLMError as error:
                ends.append(None if type(error).__name__ != "NoEligibleBackend" else "refused")

    backends = [ScriptedBackend(name, location, script) for name, location in BACKENDS.items()]
    client = HybridLLM(backends, policy, sensors=FixedSensors(), hooks=[events.append], detectors=[Names()])
    client._workers = Inline()
    loop = VirtualLoop()
    try:
        loop.run_until_complete(run(client))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    return ends, [seen(event.decision, event.attempts, event.continuations) for event in events]


def through_the_simulator(policy, tags, fates):
    arrivals = tuple(
        Arrival(
            at_s=100.0 * number,
            prompt_tokens=5,
            output_tokens=2,
            max_tokens=MAX_TOKENS,
            deadline_s=60.0,
            tags=one.declared,
            found=one.found,
        )
        for number, one in enumerate(tags)
    )
    simulation = ScriptedSimulation(policy, Trace(arrivals=arrivals, source="a test"), Script(fates))
    run = simulation.run()
    ends = [one.location if one.status is not Status.REFUSED else "refused" for one in run.outcomes]
    return ends, [seen(decision, made.records, made.continuations) for decision, made in simulation.made]


def fates(name):
    return st.builds(
        Fate,
        latency=st.sampled_from([seconds + OFFSETS[name] for seconds in LATENCIES]),
        kind=st.sampled_from(["answers", "answers", *ERRORS]),
        tokens=st.integers(1, MAX_TOKENS),
    )


@st.composite
def policies(draw):
    order = draw(st.permutations(list(BACKENDS)))
    hedge = draw(st.sampled_from(["", "hedge_after: 200ms, "]))
    tags = ["phi: {allow: [edge], detect: [medical_record]}", "open: {allow: [edge, cloud]}"]
    for tag, detector in (("pii", "email"), ("money", "iban")):
        names, accept = draw(st.sampled_from(["", ", my_names"])), draw(st.sampled_from(["true", "false"]))
        rule = f"to_cloud: pseudonymise, detect: [{detector}{names}], accept_undetected_names: {accept}"
        tags.append(f"{tag}: {{allow: [edge, cloud], {rule}}}")
    text = (
        f"version: 1\nname: both\ntags: {{{', '.join(tags)}}}\n"
        f"rules:\n  - exclude: eu\n    when: '\"open\" in request.tags'\n  - prefer: [{', '.join(order)}]\n"
        f"resilience: {{retries: {draw(st.integers(0, 2))}, retry_budget: {draw(st.sampled_from([1, 100]))}%, {hedge}"
        f"continue_streams: {draw(st.sampled_from(['true', 'false']))}, "
        f"breaker: {{failures: {draw(st.integers(1, 3))}, open: 10m}}}}\n"
    )
    return parse_policy(text, backends=BACKENDS, detectors={*DETECTOR_NAMES, Names.name})


@dataclasses.dataclass(frozen=True)
class Tags:
    """The tags of one request: what the app declares, and what detectors find."""

    declared: frozenset[str]
    found: frozenset[str]


TAGS = st.builds(
    Tags,
    declared=st.frozensets(st.sampled_from(["phi", "open", "pii", "money"]), max_size=2),
    found=st.frozensets(st.sampled_from(sorted(VALUES)), max_size=2),
)


@settings(
    max_examples=int(os.environ.get("HYBRID_TESTS_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    policies(),
    st.lists(TAGS, min_size=1, max_size=5),
    st.fixed_dictionaries({name: st.lists(fates(name), max_size=8) for name in BACKENDS}),
)
def test_router_and_simulator_make_the_same_decisions_and_the_same_calls(policy, tags, fates):
    routed, simulated = through_the_router(policy, tags, fates), through_the_simulator(policy, tags, fates)
    assert simulated[0] == routed[0]
    made = [one for one in routed[1] if one[0]]  # where no backend is eligible there is nothing to attempt
    assert simulated[1] == made
