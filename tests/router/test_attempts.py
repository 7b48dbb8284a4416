"""The attempts of a request: whatever backends do, the decided ones are called in order, and every request ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import (
    AllBackendsFailed,
    AuthenticationFailed,
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    HybridLLMError,
    PrivacyViolation,
    RequestRejected,
    StreamInterrupted,
    UntrustedPeer,
)
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.health import HealthProbe, RetryBudget
from hybrid_llm.core.request import PartialAnswer, RequestMetadata
from hybrid_llm.router.execution.answer import finish, iterate, stepped
from hybrid_llm.router.execution.attempts import Attempts

LAST = Chunk(text="end", finish_reason=FinishReason.STOP)
Script = Sequence[Chunk | Exception]
NAMES = ("a", "b", "c")


class World:
    """Backends that play scripts, a clock that only sleeping moves, and a record of who was called."""

    def __init__(self, scripts: Mapping[str, Sequence[Script]]) -> None:
        self.scripts = {name: list(plays) for name, plays in scripts.items()}
        self.calls: list[str] = []
        self.open_streams = 0
        self.now = 0.0
        self.slept: list[float] = []

    def play(self, name: str):
        self.calls.append(name)
        plays = self.scripts[name]
        script = plays.pop(0) if len(plays) > 1 else plays[0]
        self.open_streams += 1
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.open_streams -= 1

    def open(self, name: str, given: PartialAnswer) -> AsyncGenerator[Chunk, None]:
        return stepped(self.play(name))

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def attempts(world: World, order: Sequence[str], *, retries: int = 2, deadline: float = 10.0, reserve: float = 10.0):
    return Attempts(
        metadata=RequestMetadata(deadline=deadline, created=0.0),
        decision=Decision(order=tuple(order), excluded={}, policy="p", digest="d"),
        open_stream=world.open,
        sleep=world.sleep,
        breakers={name: HealthProbe(failures=100, open_s=30.0, clock=lambda: world.now) for name in NAMES},
        budget=RetryBudget(ratio=0.1, reserve=reserve),
        retries=retries,
        clock=lambda: world.now,
    )


def play(run: Attempts) -> tuple[list[Chunk], HybridLLMError | None]:
    got: list[Chunk] = []
    try:
        for chunk in iterate(run.run()):
            got.append(chunk)
    except HybridLLMError as error:
        return got, error
    return got, None


def errors(name: str) -> list[Exception]:
    return [
        BackendUnavailable("down", backend=name),
        BackendOverloaded("full", backend=name, retry_after=0.01),
        AuthenticationFailed("who?", backend=name),
        RequestRejected("too long", backend=name, reason="context_overflow"),
        RequestRejected("nonsense", backend=name),
        StreamInterrupted("cut", backend=name),
        DeadlineExceeded("late", backend=name),
        UntrustedPeer("wrong name", backend=name),
        PrivacyViolation("no", location="cloud"),
    ]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, list[list[Chunk | Exception]]]:
    scripts = {}
    for name in NAMES:
        plays = []
        for _ in range(draw(st.integers(1, 4))):
            body: list[Chunk | Exception] = [Chunk(text="t")] * draw(st.integers(0, 3))
            end = draw(st.sampled_from([LAST, None, *errors(name)]))
            plays.append(body + ([end] if end is not None else []))
        scripts[name] = plays
    return scripts


@given(scripts=worlds(), order=st.permutations(NAMES), size=st.integers(1, 3), retries=st.integers(0, 3))
def test_only_decided_backends_are_called_in_rounds_of_the_decided_order(scripts, order, size, retries):
    world, order = World(scripts), order[:size]
    run = attempts(world, order, retries=retries)
    play(run)
    assert set(world.calls) <= set(order)
    assert len(world.calls) <= size * (retries + 1)
    rounds: list[list[str]] = [[]]
    for name in world.calls:
        if rounds[-1] and order.index(name) <= order.index(rounds[-1][-1]):
            rounds.append([])
        rounds[-1].append(name)
    assert len(rounds) <= retries + 1
    assert rounds[0] == list(order[: len(rounds[0])])


@given(scripts=worlds(), order=st.permutations(NAMES))
def test_every_request_ends_with_one_finish_or_one_typed_error_and_closes_every_stream(scripts, order):
    world = World(scripts)
    got, error = play(attempts(world, order))
    finished = [chunk for chunk in got if chunk.finish_reason is not None]
    assert (len(finished) == 1) is (error is None)
    assert not finished or finished == got[-1:]
    assert world.open_streams == 0


@given(scripts=worlds(), order=st.permutations(NAMES))
def test_after_the_first_token_and_after_a_broken_trust_nobody_else_is_called(scripts, order):
    world = World(scripts)
    run = attempts(world, order)
    got, error = play(run)
    if got:
        assert run.answering == world.calls[-1]
    if isinstance(error, UntrustedPeer | PrivacyViolation) and not got:
        assert run.failures.keys() <= set(world.calls[:-1])


@given(scripts=worlds(), order=st.permutations(NAMES))
def test_async_callers_see_what_sync_callers_see(scripts, order):
    async def collect(run: Attempts) -> tuple[list[Chunk], type | None]:
        got: list[Chunk] = []
        try:
            async for chunk in run.run():
                got.append(chunk)
        except HybridLLMError as error:
            return got, type(error)
        return got, None

    sync_world, async_world = World(scripts), World(scripts)
    got, error = play(attempts(sync_world, order))
    assert asyncio.run(collect(attempts(async_world, order))) == (got, type(error) if error else None)
    assert sync_world.calls == async_world.calls


def test_a_failure_hands_over_at_once_without_a_pause():
    world = World({"a": [[BackendUnavailable("down", backend="a")]], "b": [[LAST]], "c": [[LAST]]})
    got, error = play(attempts(world, "ab"))
    assert (got, error, world.calls, world.slept) == ([LAST], None, ["a", "b"], [])


def test_a_round_is_repeated_for_those_who_may_recover_only():
    down, rejected = BackendUnavailable("down", backend="a"), AuthenticationFailed("who?", backend="b")
    world = World({"a": [[down], [LAST]], "b": [[rejected]], "c": [[LAST]]})
    got, _ = play(attempts(world, "ba"))
    assert got == [LAST]
    assert world.calls == ["b", "a", "a"]
    assert len(world.slept) == 1


@pytest.mark.parametrize(
    "error",
    [
        RequestRejected("nonsense", backend="a"),
        DeadlineExceeded("late", backend="a"),
        UntrustedPeer("wrong name", backend="a"),
        PrivacyViolation("no", location="cloud"),
    ],
)
def test_what_no_other_backend_can_mend_ends_the_request_at_once(error):
    world = World({"a": [[error]], "b": [[LAST]], "c": [[LAST]]})
    _, told = play(attempts(world, "ab"))
    assert told is error
    assert world.calls == ["a"]


def test_the_failures_of_all_are_told():
    world = World({n: [[BackendUnavailable(f"{n} is down", backend=n)]] for n in NAMES})
    _, error = play(attempts(world, "abc", retries=1))
    assert isinstance(error, AllBackendsFailed)
    assert list(error.failures) == ["a", "b", "c"]
    assert "b is down" in str(error)
    assert world.calls == list("abcabc")


def test_no_retry_is_made_that_would_end_after_the_deadline():
    full = BackendOverloaded("full", backend="a", retry_after=5.0)
    world = World({"a": [[full], [LAST]], "b": [[LAST]], "c": [[LAST]]})
    _, error = play(attempts(world, "a", deadline=2.0))
    assert isinstance(error, AllBackendsFailed)
    assert world.slept == []


def test_what_the_node_asks_to_wait_is_waited():
    full = BackendOverloaded("full", backend="a", retry_after=3.0)
    world = World({"a": [[full], [LAST]], "b": [[LAST]], "c": [[LAST]]})
    got, _ = play(attempts(world, "a"))
    assert got == [LAST]
    assert world.slept[0] >= 3.0


def test_an_empty_retry_budget_means_no_retry():
    world = World({"a": [[BackendUnavailable("down", backend="a")]], "b": [[LAST]], "c": [[LAST]]})
    play(attempts(world, "a", reserve=0.0))
    assert world.calls == ["a"]


def test_a_stream_without_a_finish_reason_is_never_taken_for_complete():
    world = World({"a": [[Chunk(text="half")]], "b": [[LAST]], "c": [[LAST]]})
    got, error = play(attempts(world, "ab"))
    assert [c.text for c in got] == ["half"]
    assert isinstance(error, StreamInterrupted)


def test_a_deadline_that_passes_between_tokens_ends_the_stream():
    world = World({"a": [[Chunk(text="1"), Chunk(text="2"), LAST]], "b": [[LAST]], "c": [[LAST]]})
    steps = iterate(attempts(world, "a", deadline=1.0).run())
    assert next(steps).text == "1"
    world.now = 2.0
    with pytest.raises(DeadlineExceeded):
        list(steps)
    assert world.open_streams == 0


def test_an_open_breaker_keeps_its_backend_from_being_called_and_is_not_fed_by_that():
    world = World({"a": [[BackendUnavailable("down", backend="a")]], "b": [[LAST]], "c": [[LAST]]})
    run = attempts(world, "ab")
    run.breakers = {
        "a": HealthProbe(failures=1, open_s=30.0, clock=lambda: world.now),
        "b": HealthProbe(failures=1, open_s=30.0, clock=lambda: world.now),
    }
    play(run)
    again = attempts(world, "ab")
    again.breakers = run.breakers
    play(again)
    assert world.calls == ["a", "b", "b"]
    assert again.records[0].error == "BackendUnavailable"
    world.now = 31.0
    assert run.breakers["a"].admit()


def ejected(world: World, *, serves: bool) -> HealthProbe:
    """A backend whose breaker is open, while a probe finds that it serves or nothing probes it."""
    probe = HealthProbe(failures=1, open_s=30.0, clock=lambda: world.now)
    probe.failed()
    if serves:
        probe.probe_succeeded()
        probe.failed()
    return probe


@pytest.mark.parametrize(("serves", "called"), [(True, ["a"]), (False, [])])
def test_what_serves_is_called_although_its_breaker_is_open_where_nothing_else_is_left(serves, called):
    world = World({"a": [[LAST]]})
    run = attempts(world, "a")
    run.breakers = {"a": ejected(world, serves=serves)}
    assert isinstance(play(run)[1], AllBackendsFailed) is not serves
    assert world.calls == called


def test_there_is_no_last_resort_while_another_backend_may_be_called():
    world = World({"a": [[LAST]], "b": [[LAST]]})
    run = attempts(world, "ab")
    run.breakers = {"a": ejected(world, serves=True), "b": HealthProbe(failures=9, open_s=30.0)}
    play(run)
    assert world.calls == ["b"]


def test_a_last_resort_adds_no_more_calls_than_the_retry_budget_pays_for():
    world = World({"a": [[BackendUnavailable("down", backend="a")]]})
    probe, budget = ejected(world, serves=True), RetryBudget(ratio=0.1)
    for _ in range(500):
        run = attempts(world, "a")
        run.breakers, run.budget = {"a": probe}, budget
        assert isinstance(play(run)[1], AllBackendsFailed)
        probe.probe_succeeded()
    assert 500 <= len(world.calls) <= 500 + 10 + 50


def test_the_records_tell_what_was_tried_and_how_it_ended():
    world = World({"a": [[BackendOverloaded("full", backend="a")]], "b": [[LAST]], "c": [[LAST]]})
    run = attempts(world, "ab")
    play(run)
    assert [(r.backend, r.error) for r in run.records] == [("a", "BackendOverloaded"), ("b", "")]
    assert isinstance(run.failures["a"], BackendError)


def test_a_core_that_would_really_wait_is_refused_instead_of_hanging():
    with pytest.raises(RuntimeError, match="synchronous"):
        finish(asyncio.sleep(0))


def test_a_success_forgets_earlier_failures_of_the_breaker():
    down = BackendUnavailable("down", backend="a")
    world = World({"a": [[down], [LAST], [down], [LAST]], "b": [[LAST]], "c": [[LAST]]})
    breakers = {name: HealthProbe(failures=2, open_s=30.0, clock=lambda: world.now) for name in NAMES}
    for _ in range(4):
        run = attempts(world, "ab")
        run.breakers = breakers
        play(run)
    assert world.calls == ["a", "b", "a", "a", "b", "a"]


def half_open(world: World) -> dict[str, HealthProbe]:
    """Breakers of which `a` is half open now, and closes again for nothing but a success."""
    made = {name: HealthProbe(failures=1, open_s=30.0, clock=lambda: world.now) for name in NAMES}
    made["a"].failed()
    world.now = 30.0
    return made


@pytest.mark.parametrize(
    "error",
    [BackendOverloaded("full", backend="a"), RequestRejected("no", backend="a", reason="unsupported")],
)
def test_a_probe_that_fails_for_another_reason_leaves_the_breaker_to_the_next_request(error):
    world = World({"a": [[error], [LAST]], "b": [[LAST]], "c": [[LAST]]})
    breakers = half_open(world)
    for _ in range(2):
        run = attempts(world, "ab", deadline=100.0, retries=0)
        run.breakers = breakers
        play(run)
    assert world.calls == ["a", "b", "a"]


def test_a_probe_whose_caller_leaves_leaves_the_breaker_to_the_next_request():
    world = World({"a": [[Chunk(text="1"), LAST]], "b": [[LAST]], "c": [[LAST]]})
    run = attempts(world, "a", deadline=100.0)
    run.breakers = half_open(world)
    steps = iterate(run.run())
    next(steps)
    steps.close()
    assert run.breakers["a"].admit()


def test_a_backend_that_lets_the_time_of_requests_pass_without_a_word_opens_its_breaker():
    world = World({"a": [[LAST]], "b": [[LAST]], "c": [[LAST]]})

    async def hang(name: str, given: PartialAnswer) -> AsyncGenerator[Chunk, None]:
        world.now += 10.0
        raise DeadlineExceeded("late", backend=name)
        yield LAST

    breaker = HealthProbe(failures=3, open_s=30.0, clock=lambda: world.now)
    for number in range(3):
        run = attempts(world, "a")
        run.metadata = RequestMetadata(deadline=10.0, created=world.now)
        run.breakers, run.open_stream = {"a": breaker}, hang
        assert breaker.breaker == "closed", number
        _, error = play(run)
        assert isinstance(error, DeadlineExceeded)
    assert breaker.breaker == "open"


@pytest.mark.parametrize("error", [BackendUnavailable("down", backend="a"), DeadlineExceeded("late", backend="a")])
def test_the_breaker_learns_nothing_of_a_backend_that_says_itself_that_it_cannot_be_asked(error):
    world = World({"a": [[error]], "b": [[LAST]], "c": [[LAST]]})
    breaker, ready = HealthProbe(failures=1, open_s=30.0, clock=lambda: world.now), {"a": False}
    for ready["a"] in (False, True):
        run = attempts(world, "ab", retries=0)
        run.metadata = replace(run.metadata, created=world.now)
        run.breakers, run.is_ready = run.breakers | {"a": breaker}, ready.__getitem__
        run.open_stream = slowly(world, run.open_stream)
        assert breaker.breaker == "closed"
        play(run)
    assert breaker.breaker == "open"


def slowly(world: World, opened):
    """Streams that take the whole time of a request before their first word."""

    async def stream(name: str, given: PartialAnswer) -> AsyncGenerator[Chunk, None]:
        if name == "a":
            world.now += 10.0
        async for chunk in opened(name, given):
            yield chunk

    return stream


def test_a_backend_that_was_asked_too_late_is_not_blamed_for_the_deadline():
    world = World({"a": [[DeadlineExceeded("late", backend="a")]], "b": [[LAST]], "c": [[LAST]]})
    run = attempts(world, "a")
    run.breakers = {"a": HealthProbe(failures=1, open_s=30.0)}
    play(run)
    assert run.breakers["a"].breaker == "closed"


def test_a_node_that_knows_when_it_is_back_is_waited_for():
    down = BackendUnavailable("restarting", backend="a", retry_after=3.0)
    world = World({"a": [[down], [LAST]], "b": [[LAST]], "c": [[LAST]]})
    got, _ = play(attempts(world, "a"))
    assert got == [LAST]
    assert world.slept[0] >= 3.0


def test_broken_trust_is_on_record():
    world = World({"a": [[UntrustedPeer("wrong name", backend="a")]], "b": [[LAST]], "c": [[LAST]]})
    run = attempts(world, "ab")
    play(run)
    assert [(record.backend, record.error) for record in run.records] == [("a", "UntrustedPeer")]
