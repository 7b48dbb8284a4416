"""A client under generated policies, requests and faults: no local-only text leaves, and no text is reported.

One run is one request in its own situation: the current policy, tags, texts, faults, and how it is called. Hypothesis
chooses the order of events and the seeds of the situations; drawing each field of them takes five times as long and
finds less, because Hypothesis tends to repeat values.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import HybridLLMError, PrivacyViolation, RoutingError
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import Location
from hybrid_llm.policies import KNOWN_DETECTORS, PolicyFile
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.observability.otel import OpenTelemetryHook
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from hybrid_llm.router.observability.recorder import DecisionRecorder
from hybrid_llm.router.signals import FixedSensors
from tests.leaks.canaries import Canaries, leaked
from tests.leaks.doubles import BrokenCache, CloudCache, Double, FaultyDetector, Record
from tests.leaks.situations import FAULTS, KINDS, MOMENTS, Plan, Shape, Verdict, judge, plan_of, shape_of
from tests.leaks.texts import SEPARATOR, Draft, Texts
from tests.leaks.witness import Witness

__all__ = ["WORTH_SEEING", "Leaks", "explore", "happened"]

happened: Counter[str] = Counter()
"""What was seen over all runs; a check that could not have failed shows here as a zero."""

WORTH_SEEING = (
    "must stay",
    "sent",
    "sent with pseudonyms",
    "a value that no detector sees",
    "kept here by a detector that failed",
    "answered by local",
    "answered by node",
    "answered by far",
    "cache hit",
    "breaker open",
    "continued",
    "an added text continued in the cloud",
    "several at once, and a reload",
    "recorded decisions",
    "metrics of requests",
    "traces of requests",
    *(f"fault: {fault}" for fault in FAULTS),
    *(f"in flight: {moment}" for moment in MOMENTS),
)
"""Events that a long enough run must have seen; without them its silence proves little."""
_LOCATIONS = {"local": Location.EDGE, "liar": Location.EDGE, "node": Location.CLOUD, "far": Location.CLOUD}
_CACHES: dict[str, Callable[[Record], MemoryCache | None]] = {
    "none": lambda _: None,
    "memory": lambda _: MemoryCache(),
    "cloud": CloudCache,
    "broken": lambda _: BrokenCache(),
}
_NUMBERS = st.integers(0, 2**24 - 1)
_SETTINGS = settings(
    database=None,
    deadline=None,
    stateful_step_count=12,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


@dataclass(slots=True, kw_only=True)
class _Asked:
    """One request in flight: its texts, how it is made, what may happen to it, and what did."""

    draft: Draft
    shape: Shape
    verdicts: tuple[Verdict, ...]
    """One for each plan that may be in force when it is judged."""
    with_added: tuple[Verdict, ...] = ()
    """The same for a continuation of an answer that begins with what the device added."""
    error: BaseException | None = None
    reply: Generation | None = None
    decision: Decision | None = None
    """Where it was streamed: known before anything of the answer is."""

    @property
    def stays(self) -> bool:
        """No plan lets it leave."""
        return all(verdict.stay for verdict in self.verdicts)

    def identity(self, *, in_cloud: bool) -> tuple[object, ...]:
        """What an answer may be cached under; one that the app left may have been complete by then.

        The names of tags do not travel to a cache in the cloud, which therefore cannot tell requests apart by them.
        """
        decision = self.reply.decision if self.reply is not None else self.decision
        tags = decision.tags if decision is not None and not in_cloud else None
        return self.draft.options.get("tenant"), tags, tuple(said.content for said in self.draft.messages)

    def may_leave(self) -> set[str]:
        """The canaries of it that a node may see."""
        return {text for verdict in self.verdicts if not verdict.stay for text in self.draft.visible(verdict.hidden)}

    def may_leave_with_added(self) -> set[str]:
        """Those that a node may see that continues what the device added."""
        left = (verdict.hidden for verdict in self.with_added if not verdict.stay)
        return {text for hidden in left for text in (*self.draft.visible(hidden), *self.draft.visible_added(hidden))}

    def may_be_kept(self) -> set[str]:
        """The canaries of it that a cache in the cloud may have."""
        kept = set(self.draft.visible(frozenset())) if any(verdict.keep for verdict in self.verdicts) else set()
        added = any(verdict.keep for verdict in self.with_added)
        return kept | set(self.draft.visible_added(frozenset())) if added else kept


class Leaks(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="leaks-"))
        self._path = self._folder / "policy.yaml"
        self._witness = Witness(own=self._folder)
        self._record = Record(happened=happened)
        self._detectors = {kind: FaultyDetector(kind, self._record.detector_failed) for kind in KINDS}
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self._steps: dict[str, int] = {}
        self._last: tuple[Shape, Draft] | None = None
        self._answered: set[tuple[object, ...]] = set()
        self._client: HybridLLM | None = None

    @initialize(
        number=_NUMBERS,
        others=st.sampled_from(
            [("local",), ("local", "far"), ("local", "far"), ("liar", "local"), ("local", "liar", "far"), ()]
        ),
        cache=st.sampled_from(["memory", "memory", "cloud", "cloud", "none", "broken"]),
    )
    def begin(self, number: int, others: tuple[str, ...], cache: str) -> None:
        """A client of its own, with a policy that is watched."""
        self._seed, self._drawn = number, 0
        self._texts = Texts(Canaries(number))
        self._names, self._cache = (*others, "node"), cache
        self._plan = self._next = self._any_plan(number)
        self._open()

    def _random(self, number: int) -> Random:
        """Never the same twice, though hypothesis draws the same numbers again and again."""
        self._drawn += 1
        return Random(f"{self._seed} {self._drawn} {number}")

    def _any_plan(self, number: int) -> Plan:
        plan = plan_of(self._random(number), device="local" in self._names)
        note(f"a policy: {plan}")
        return plan

    def _any_shape(self, number: int, *, alone: bool) -> Shape:
        shape = shape_of(self._random(number), alone=alone)
        note(f"a request: {shape}")
        return shape

    def _write(self, text: str) -> None:
        self._path.write_text(text, "utf-8")

    def _new_text(self, plan: Plan) -> str:
        self._number += 1
        return plan.text(self._number)

    def _open(self) -> None:
        locations = {name: _LOCATIONS[name] for name in self._names}
        self._write(self._new_text(self._plan))
        with self._witness.watching():
            self._policies = PolicyFile(self._path, locations, detectors=KNOWN_DETECTORS | {"codeword"})
        self._recorder = DecisionRecorder(self._folder / "decisions.jsonl")
        self._registry = CollectorRegistry()
        self._metrics: set[str] = set()
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._client = HybridLLM(
            [Double(name, place, self._record, self._steps) for name, place in locations.items()],
            self._policies,
            sensors=FixedSensors(),
            detectors=self._detectors.values(),
            hooks=[
                self._witness,
                _raising,
                self._recorder,
                PrometheusMetrics(registry=self._registry),
                OpenTelemetryHook(tracer_provider=tracers, meter_provider=MeterProvider([self._reader]), names="both"),
            ],
            cache=_CACHES[self._cache](self._record),
        )
        self._texts.forget_all()

    @rule(number=_NUMBERS)
    def reload(self, number: int) -> None:
        """Another policy comes into force between two requests."""
        self._next = self._any_plan(number)
        with self._witness.watching():
            self._take_over()

    def _take_over(self) -> None:
        self._write(self._new_text(self._next))
        assert self._policies.reload(), self._policies.error
        self._plan = self._next

    @rule(numbers=st.lists(_NUMBERS, min_size=2, max_size=5))
    def in_turn(self, numbers: list[int]) -> None:
        """One request after the other, with whatever happens while each is answered."""
        for number in numbers:
            shape = self._any_shape(number, alone=True)
            if shape.moment == "reload":
                self._next = self._any_plan(number)
            self._one(shape)

    def _one(self, shape: Shape) -> None:
        for detector in self._detectors.values():
            detector.fault, detector.misbehaved = shape.detector_fault, False
        asked = self._ask(shape, self._plan)
        self._record.in_flight = _once(lambda: self._during(asked))
        with self._witness.watching():
            self._run(asked)
        self._record.in_flight, self._record.lying = _nothing, False
        self._check([asked], failed=self._detectors_failed())
        if shape.moment == "close the client":
            self._close()
            self._open()

    def _detectors_failed(self) -> bool:
        failed = any(detector.misbehaved for detector in self._detectors.values())
        for detector in self._detectors.values():
            detector.fault = None
        return failed

    def _during(self, asked: _Asked) -> None:
        """The first chunk is out."""
        assert self._client is not None
        match asked.shape.moment:
            case "reload":
                self._take_over()
            case "break the policy":
                self._write(f"version: 1\nname: [{self._number}")
                assert not self._policies.reload()
            case "close the client":
                self._client.close()
            case "forget" if asked.draft.session[1] is not None:
                tenant, session = asked.draft.session
                self._client.forget(session or "", tenant=tenant)
                self._texts.forget(session or "", tenant)
            case _:
                return
        happened[f"in flight: {asked.shape.moment}"] += 1

    @rule(numbers=st.lists(_NUMBERS, min_size=2, max_size=4), swap=st.booleans())
    def several(self, numbers: list[int], swap: bool) -> None:  # noqa: FBT001
        """Several at once, from threads and tasks, and perhaps another policy meanwhile."""
        group = [self._any_shape(number, alone=False) for number in numbers]
        before, self._next = self._plan, self._any_plan(numbers[0]) if swap else self._plan
        asked = [self._ask(shape, before, self._next) for shape in group]
        with self._witness.watching(), ThreadPoolExecutor(4) as pool:
            work = [pool.submit(self._run, one) for one in asked if not one.shape.is_async]
            work += [pool.submit(self._take_over)] if swap else []
            tasks = [self._run_async(one) for one in asked if one.shape.is_async]
            self._loop.run_until_complete(_all(tasks))
            for done in work:
                done.result()
        happened["several at once"] += 1
        happened["several at once, and a reload"] += swap
        self._check(asked)

    @rule(session=st.sampled_from(["s", "t"]), tenant=st.sampled_from([None, "tenant"]))
    def forget(self, session: str, tenant: str | None) -> None:
        """A session is over."""
        assert self._client is not None
        self._client.forget(session, tenant=tenant)
        self._texts.forget(session, tenant)

    def _ask(self, shape: Shape, *in_force: Plan) -> _Asked:
        """Draw the texts, and judge them by every plan that may be in force."""
        if shape.again and self._last is not None:
            before, last = self._last
            other = shape.again == "other words"
            draft = self._texts.draft(replace(before, faults=shape.faults)) if other else self._texts.again(last, shape)
        else:
            before, draft = shape, self._texts.draft(shape)
        self._last = before, draft
        self._steps[draft.request_id] = shape.step
        self._record.faults[draft.request_id] = {name: list(faults) for name, faults in shape.faults.items()}
        if draft.added is not None:
            self._record.added[draft.request_id] = draft.added.content
        readings = {draft.kinds, draft.kinds | draft.unseen}
        verdicts = tuple(judge(plan, draft.declared, kinds) for plan in in_force for kinds in readings)
        added = {kinds | draft.added_kinds for kinds in readings}
        with_added = tuple(judge(plan, draft.declared, kinds) for plan in in_force for kinds in added)
        return _Asked(draft=draft, shape=shape, verdicts=verdicts, with_added=with_added)

    def _run(self, asked: _Asked) -> None:
        if asked.shape.is_async:
            self._loop.run_until_complete(_all([self._run_async(asked)]))
            return
        try:
            self._sync(asked)
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not contain text
            asked.error = error

    def _sync(self, asked: _Asked) -> None:
        assert self._client is not None
        if asked.shape.how == "decide":
            decision = self._client.decide(asked.draft.prompt, **asked.draft.options)
            self._witness.told += [decision.explain(), repr(decision)]
            return
        if asked.shape.how == "generate" and asked.shape.moment not in {"leave", "lie"}:
            asked.reply = self._client.generate(asked.draft.prompt, **asked.draft.options)
            return
        with self._client.stream(asked.draft.prompt, **asked.draft.options) as stream:
            self._begun(asked, stream.decision)
            for _ in stream:
                if asked.shape.moment == "leave":
                    happened["in flight: leave"] += 1
                    return
            asked.reply = stream.generation

    def _begun(self, asked: _Asked, decision: Decision) -> None:
        """The request is decided, and no backend has been called yet."""
        asked.decision = decision
        self._record.lying = asked.shape.moment == "lie"
        happened["in flight: lie"] += self._record.lying

    async def _run_async(self, asked: _Asked) -> None:
        try:
            await self._async(asked)
        except Exception as error:  # noqa: BLE001
            asked.error = error

    async def _async(self, asked: _Asked) -> None:
        assert self._client is not None
        if asked.shape.how == "agenerate" and asked.shape.moment not in {"leave", "lie"}:
            asked.reply = await self._client.agenerate(asked.draft.prompt, **asked.draft.options)
            return
        async with self._client.astream(asked.draft.prompt, **asked.draft.options) as stream:
            self._begun(asked, stream.decision)
            async for _ in stream:
                if asked.shape.moment == "leave":
                    happened["in flight: leave"] += 1
                    return
            asked.reply = stream.generation

    def _check(self, asked: list[_Asked], *, failed: bool = False) -> None:
        """Check everything that left or was reported since the last check."""
        by_id = {one.draft.request_id: one for one in asked}
        for one in asked:
            self._take_note(one, failed=failed)
        self._check_sent(by_id)
        self._check_cached(asked)
        self._take_metrics()
        self._take_traces()
        told = leaked(self._texts.canaries, "\n".join(dict.fromkeys(self._witness.told)))
        assert not told, f"told: {told} in {[text for text in self._witness.told if leaked(told, text)][:3]}"
        assert not self._witness.touched, self._witness.touched
        assert not self._record.uncleared, "a backend in the cloud was given a request without a clearance"
        self._witness.told.clear()
        self._record.clear()

    def _take_metrics(self) -> None:
        """The text before the numbers, if it is new."""
        lines = generate_latest(self._registry).decode().splitlines()
        shown = {line.rpartition(" ")[0] for line in lines} - self._metrics
        self._metrics |= shown
        self._witness.told += shown
        happened["metrics of requests"] += any(line.startswith("hybrid_llm_attempts_total{") for line in shown)

    def _take_traces(self) -> None:
        """What OpenTelemetry would export."""
        spans = self._spans.get_finished_spans()
        self._spans.clear()
        metrics = self._reader.get_metrics_data()
        self._witness.told += [span.to_json() for span in spans] + ([metrics.to_json()] if metrics else [])
        happened["traces of requests"] += any(span.name.startswith("attempt") for span in spans)

    def _check_sent(self, by_id: dict[str, _Asked]) -> None:
        late = self._record.left_after_failure()
        assert not late, f"a detector failed, and the request left: {sorted(late)}"
        called = {request_id for request_id, _ in self._record.asked}
        kept = {request_id for request_id, _ in self._record.cloud_cache}
        for request_id in called | kept:
            one = by_id[request_id]
            assert not one.stays, f"what must stay left: {sorted(called)}, {one.draft.declared}, {one.draft.kinds}"
        for request_id, data in self._record.wire:
            one = by_id[request_id]
            added = SEPARATOR in pb.GenerateRequest.FromString(data).answer_prefix
            may_leave = one.may_leave_with_added() if added else one.may_leave()
            found = leaked(set(self._texts.canaries) - may_leave, data)
            assert not found, f"sent: {found} in {data!r}"
        for request_id, data in self._record.cloud_cache:
            found = leaked(set(self._texts.canaries) - by_id[request_id].may_be_kept(), data)
            assert not found, f"kept in the cloud: {found}"

    def _take_note(self, one: _Asked, *, failed: bool) -> None:
        """Count what happened, give errors to the witness, and check that an answer echoes its request exactly."""
        sent = any(request_id == one.draft.request_id for request_id, _ in self._record.wire)
        hidden = frozenset().union(*(verdict.hidden for verdict in one.verdicts))
        happened["requests"] += 1
        happened["must stay"] += one.stays or failed
        happened["sent"] += sent
        happened["sent with pseudonyms"] += sent and bool(one.draft.values(hidden))
        happened["a value that no detector sees"] += sent and bool(one.draft.unseen)
        happened["kept here by a detector that failed"] += failed and not one.stays
        if one.error is not None:
            self._take_error(one, one.error)
        if one.reply is not None:
            self._take_reply(one, one.reply, hidden if sent else frozenset())

    def _take_error(self, one: _Asked, error: BaseException) -> None:
        assert isinstance(error, HybridLLMError), f"a request ends with an answer or one typed error: {error!r}"
        lied = one.shape.moment == "lie" or any("lie" in faults for faults in one.shape.faults.values())
        expected = lied or one.shape.moment == "close the client"
        assert expected or not isinstance(error, PrivacyViolation), f"nobody lied, and yet: {error}"
        self._witness.caught(error)
        happened[f"error: {type(error).__name__}"] += 1
        if isinstance(error, RoutingError):
            happened["breaker open"] += "breaker is open" in f"{error} {error.decision.excluded}"

    def _take_reply(self, one: _Asked, reply: Generation, hidden: frozenset[str]) -> None:
        self._witness.told += [repr(reply), reply.decision.explain()]
        happened[f"answered by {reply.backend}"] += 1
        happened["cache hit"] += reply.cached
        happened["continued"] += bool(reply.continuations)
        happened["breaker open"] += "breaker is open" in str(reply.decision.excluded)
        has_schema = "output_schema" in one.draft.options
        said = json.loads(reply.text) if has_schema else {"said": one.draft.without_added(reply.text)}
        whole = {"said": one.draft.messages[-1].content}
        assert said == whole, f"the answer is not what was said: {said}, {whole}, {reply.continuations}"
        learnt = len(set(one.verdicts)) == 1 and one.shape.moment != "forget"
        self._texts.answered(one.draft, reply.text, hidden if learnt else frozenset())

    def _check_cached(self, asked: list[_Asked]) -> None:
        """A cached answer belongs to the same texts of the same tenant, and on the device to the same tags."""
        identities = [one.identity(in_cloud=self._cache == "cloud") for one in asked]
        cached = [one.reply is not None and one.reply.cached for one in asked]
        self._answered |= {identity for identity, hit in zip(identities, cached, strict=True) if not hit}
        strange = {identity for identity, hit in zip(identities, cached, strict=True) if hit} - self._answered
        assert not strange, f"the answer to another request was given: {strange}"

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()

    def teardown(self) -> None:
        """Close everything."""
        self._close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
        files = {path.name: path.read_bytes() for path in self._folder.iterdir()}
        shutil.rmtree(self._folder)
        assert files.keys() <= {"policy.yaml", "decisions.jsonl"}, files.keys()
        told = leaked(self._texts.canaries, b"\n".join(files.values())) if files else []
        assert not told, f"written down: {told}"
        happened["recorded decisions"] += files.get("decisions.jsonl", b"").count(b"\n")


def _raising(event: RequestEvent) -> None:
    raise RuntimeError(repr(event))


def _nothing(_: str) -> None:
    pass


def _once(act: Callable[[], None]) -> Callable[[str], None]:
    """*act*, the first time only."""
    left = [act]
    return lambda _: left.pop()() if left else None


async def _all(tasks: list[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks)


def explore(examples: int, number: int, *, shrink: bool = False) -> None:
    """Run *examples* clients of at most twelve steps each; *number* is the seed.

    Raises:
        AssertionError: something left or was told. With *shrink* the shortest way to it is looked for, which takes
            minutes.
    """
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    seeded = seed(number)(type("Leaks", (Leaks,), {}))
    run_state_machine_as_test(seeded, settings=settings(_SETTINGS, max_examples=examples, phases=phases))
