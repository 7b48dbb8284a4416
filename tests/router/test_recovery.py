"""Hedges and continuations: the first token wins, no token is lost or said twice, and nobody else is called."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given as given_
from hypothesis import strategies as st

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    HybridLLMError,
    RequestRejected,
    StreamInterrupted,
    UntrustedPeer,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.health import HealthProbe, RetryBudget
from hybrid_llm.core.request import PartialAnswer, RequestMetadata
from hybrid_llm.router.execution.answer import iterate, stepped
from hybrid_llm.router.execution.attempts import Attempts
from hybrid_llm.router.execution.call import Attempt
from hybrid_llm.router.execution.hedging import TaskRace

NAMES = ("a", "b", "c")


def play(run: Attempts) -> tuple[list[Chunk], HybridLLMError | None]:
    got: list[Chunk] = []
    try:
        for chunk in iterate(run.run()):
            got.append(chunk)
    except HybridLLMError as error:
        return got, error
    return got, None


class Tokens:
    """Backends that count: each call of *name* goes on where the answer stands, and breaks off as its script says."""

    def __init__(self, total: int, cuts: Mapping[str, Sequence[int]]) -> None:
        self.total = total
        self.cuts = {name: list(places) for name, places in cuts.items()}
        self.calls: list[tuple[str, int]] = []

    def open(self, name: str, given: PartialAnswer) -> AsyncGenerator[Chunk, None]:
        return stepped(self.play(name, given))

    def play(self, name: str, given: PartialAnswer):
        self.calls.append((name, given.tokens))
        assert given.text == "".join(f"{n} " for n in range(given.tokens))
        places = self.cuts.get(name, [])
        cut = places.pop(0) if places else self.total + 1
        for number in range(given.tokens, self.total):
            if number - given.tokens == cut:
                raise StreamInterrupted("cut", backend=name)
            yield Chunk(text=f"{number} ")
        if self.total - given.tokens == cut:
            raise StreamInterrupted("cut", backend=name)
        usage = Usage(prompt_tokens=7, completion_tokens=self.total - given.tokens)
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=usage)


def continuing(world: Tokens, order: Sequence[str], *, max_tokens: int = 100, **options) -> Attempts:
    return Attempts(
        metadata=RequestMetadata(prompt_tokens=7, max_tokens=max_tokens, deadline=10.0, created=0.0),
        decision=Decision(order=tuple(order), excluded={}, policy="p", digest="d"),
        open_stream=world.open,
        sleep=nothing,
        breakers={name: HealthProbe(failures=100, open_s=30.0) for name in NAMES},
        budget=RetryBudget(ratio=1.0),
        retries=2,
        continue_streams=True,
        clock=lambda: 0.0,
        **options,
    )


async def nothing(_: float) -> None:
    """No pause."""


cuts = st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(0, 12), max_size=4), max_size=3)


@given_(cuts=cuts, order=st.permutations(NAMES), size=st.integers(1, 3), total=st.integers(1, 12))
def test_an_answer_in_parts_has_every_token_once_or_ends_in_one_error(cuts, order, size, total):
    world = Tokens(total, cuts)
    run = continuing(world, order[:size])
    got, error = play(run)
    text = "".join(chunk.text for chunk in got)
    assert "".join(f"{number} " for number in range(total)).startswith(text)
    if error is None:
        assert text == "".join(f"{number} " for number in range(total))
        assert got[-1].finish_reason is FinishReason.STOP
        assert got[-1].usage == Usage(prompt_tokens=7, completion_tokens=total)
        assert (run.continuations[-1].tokens if run.continuations else 0) == world.calls[-1][1]
        assert {(continuation.backend, continuation.tokens) for continuation in run.continuations} <= set(world.calls)
        assert all(
            text[: continuation.at] == "".join(f"{n} " for n in range(continuation.tokens))
            for continuation in run.continuations
        )
    else:
        assert isinstance(error, StreamInterrupted | AllBackendsFailed)
        assert not any(chunk.finish_reason for chunk in got)
    assert all(count <= 3 for count in Counter(world.calls).values()), "calls that brought the answer no further"


def test_the_others_continue_an_answer_before_the_same_backend_is_asked_again():
    world = Tokens(5, {"a": [2], "b": [1]})
    run = continuing(world, "ab")
    _, error = play(run)
    assert error is None
    assert world.calls == [("a", 0), ("b", 2), ("a", 3)]
    assert [(continuation.tokens, continuation.backend) for continuation in run.continuations] == [(2, "b"), (3, "a")]
    assert run.answering == "a"


def test_an_answer_that_lacked_only_its_end_is_complete_at_its_length():
    world = Tokens(4, {"a": [4]})
    got, error = play(continuing(world, "ab", max_tokens=4))
    assert (error, got[-1].finish_reason, world.calls) == (None, FinishReason.LENGTH, [("a", 0)])


def test_a_backend_that_breaks_off_again_and_again_goes_on_while_it_brings_the_answer_forward():
    world = Tokens(total=8, cuts={"a": [1, 2, 1, 3]})
    _, error = play(continuing(world, ["a"]))
    assert error is None
    assert world.calls == [("a", 0), ("a", 1), ("a", 3), ("a", 4), ("a", 7)]


def test_calls_that_bring_an_answer_no_further_are_as_many_as_retries_allow():
    world = Tokens(total=50, cuts={"a": [1, 0, 0, 0, 0]})
    tokens, error = play(continuing(world, ["a"]))
    assert isinstance(error, StreamInterrupted)
    assert world.calls == [("a", 0), ("a", 1), ("a", 1), ("a", 1)]
    assert len(tokens) == 1


def test_without_retries_the_backend_that_broke_off_is_not_called_again():
    world = Tokens(total=50, cuts={"a": [1] * 50})
    _, error = play(replace(continuing(world, ["a"]), retries=0))
    assert isinstance(error, StreamInterrupted)
    assert world.calls == [("a", 0)]


def test_every_further_call_takes_from_the_retry_budget_that_all_requests_share():
    world, budget = Tokens(total=50, cuts={"a": [1] * 50}), RetryBudget(ratio=0.0, reserve=3.0)
    for calls in (4, 1, 1):
        world.calls.clear()
        play(replace(continuing(world, ["a"]), budget=budget))
        assert len(world.calls) == calls


def test_retries_take_from_the_retry_budget_that_all_requests_share():
    world, budget = Tokens(total=5, cuts={"a": [0] * 9}), RetryBudget(ratio=0.0, reserve=2.0)
    for calls in (3, 1):
        world.calls.clear()
        play(replace(continuing(world, ["a"]), budget=budget))
        assert len(world.calls) == calls


def test_text_that_is_held_back_brings_an_answer_no_further():
    calls: list[PartialAnswer] = []

    def play_nothing(given: PartialAnswer):
        calls.append(given)
        yield Chunk(text="")
        raise StreamInterrupted("cut", backend="a")

    run = replace(continuing(Tokens(1, {}), ["a"]), open_stream=lambda _, given: stepped(play_nothing(given)))
    assert isinstance(play(run)[1], StreamInterrupted)
    assert len(calls) == 3, "as often as retries allow"


def test_answers_that_break_off_together_pay_together():
    now = [0.0]
    budget = RetryBudget(ratio=0.0, reserve=1.0)
    worlds = [Tokens(total=9, cuts={"a": [4]}) for _ in range(3)]
    runs = [iterate(replace(continuing(each, ["a"]), budget=budget, clock=lambda: now[0]).run()) for each in worlds]
    assert [next(run).text for run in runs] == ["0 "] * 3
    now[0] = 1.0
    for run in runs:
        assert "".join(chunk.text for chunk in run) == "1 2 3 4 5 6 7 8 "
    assert budget.left == pytest.approx(4 / 11), "7 of the 11 tokens that each reads again were no part of its answer"


def test_answers_that_break_off_later_pay_for_themselves():
    budget = RetryBudget(ratio=0.0, reserve=2.0)
    assert [budget.pays_together(0.0, 1.0), budget.pays_together(0.0, 1.5), budget.pays_together(1.2, 1.5)] == [
        True
    ] * 3
    assert budget.left == 0.0
    assert not budget.pays_together(0.0, 3.0), "too late to have broken off with the others"


def test_of_answers_that_break_off_together_the_dearest_pays():
    budget = RetryBudget(ratio=0.0, reserve=1.0)
    assert [budget.pays_together(0.0, 1.0, price) for price in (0.25, 0.75, 0.5, 1.0)] == [True] * 4
    assert budget.left == 0.0
    assert budget.pays_together(0.0, 1.5, 1.0)
    assert not budget.pays_together(1.2, 1.5, 0.25)


def test_a_long_answer_that_is_cut_again_and_again_costs_less_than_a_retry_each_time():
    world, budget = Tokens(total=100, cuts={"a": [50, 30]}), RetryBudget(ratio=0.0, reserve=1.0)
    assert play(replace(continuing(world, ["a"]), budget=budget))[1] is None
    assert budget.left == pytest.approx(1.0 - 7 / 57 - 57 / 87)


@given_(cuts=st.lists(st.lists(st.integers(0, 12), max_size=8), max_size=6), reserve=st.integers(0, 4))
def test_what_is_read_again_is_paid_for_or_no_more_than_what_was_delivered(cuts, reserve):
    """No storm: a backend whose answers break off reads no more again, however many there are and however they do."""
    budget, again, delivered = RetryBudget(ratio=0.0, reserve=float(reserve)), [0], 0
    for places in cuts:
        world = Tokens(total=30, cuts={"a": places})
        delivered += sum(chunk.tokens for chunk in play(replace(continuing(world, ["a"]), budget=budget))[0])
        again += [7 + tokens for _, tokens in world.calls[1:]]
    assert sum(again) <= delivered + reserve * max(again)
    assert budget.left >= 0.0


def test_calls_that_were_lost_together_are_repeated_for_one_payment():
    breaker, now = HealthProbe(failures=5, open_s=30.0, clock=lambda: now[0]), [0.0]
    budget = RetryBudget(ratio=0.0, reserve=1.0)

    def lose(*_: object):
        now[0] += 1e-3
        breaker.lost()
        raise BackendUnavailable("reset", backend="a")
        yield

    for _ in range(3):
        now[0] = 0.0  # they run at the same time
        world = Tokens(total=2, cuts={})
        opens = iter([lambda *_: stepped(lose()), world.open])
        run = replace(continuing(world, ["a"]), budget=budget, clock=lambda: now[0], breakers={"a": breaker})
        run.open_stream = lambda *given, opens=opens: next(opens)(*given)
        assert play(run)[1] is None
    assert budget.left == 0.0


def test_without_leave_to_continue_a_broken_answer_ends_in_its_error():
    world = Tokens(5, {"a": [2]})
    run = continuing(world, "ab")
    run.continue_streams = False
    got, error = play(run)
    assert isinstance(error, StreamInterrupted)
    assert (len(got), world.calls) == (2, [("a", 0)])


def test_without_leave_to_continue_an_answer_that_lacks_its_end_is_not_complete_whatever_its_length():
    run = continuing(Tokens(4, {"a": [4]}), "ab", max_tokens=4)
    run.continue_streams = False
    assert isinstance(play(run)[1], StreamInterrupted)


def test_what_nobody_else_can_mend_is_not_continued():
    class Refusing(Tokens):
        def play(self, name: str, given: PartialAnswer):
            self.calls.append((name, given.tokens))
            yield Chunk(text="0 ")
            raise RequestRejected("not this", backend=name, reason="invalid")

    world = Refusing(5, {})
    assert isinstance(play(continuing(world, "ab"))[1], RequestRejected)
    assert world.calls == [("a", 0)]


def test_a_token_whose_text_is_held_back_is_lost_with_the_backend_and_counted_only_where_it_was_given():
    class Holding(Tokens):
        def play(self, name: str, given: PartialAnswer):
            self.calls.append((name, given.tokens))
            yield Chunk(text="x")
            if len(self.calls) < 3:
                yield Chunk(text="", tokens=5)
                raise StreamInterrupted("cut", backend=name)
            yield Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=Usage(prompt_tokens=7, completion_tokens=1))

    world = Holding(3, {})
    got, error = play(continuing(world, "ab"))
    assert (error, world.calls) == (None, [("a", 0), ("b", 1), ("a", 2)])
    assert got[-1].usage == Usage(prompt_tokens=7, completion_tokens=3)


class Slow:
    """Backends that are silent for so many seconds, then answer in their own name."""

    def __init__(self, **silence: float | Exception) -> None:
        self.silence = silence
        self.calls: list[str] = []
        self.cancelled: list[str] = []

    async def open(self, name: str, given: PartialAnswer) -> AsyncGenerator[Chunk, None]:
        self.calls.append(name)
        silence = self.silence[name]
        try:
            if isinstance(silence, Exception):
                raise silence
            await asyncio.sleep(silence)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        yield Chunk(text=name)
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP)


def hedged(world: Slow, order: str, *, after: float | None = 0.02, reserve: float = 10.0) -> tuple[str, Attempts]:
    run = racing(world, order, after=after, budget=RetryBudget(ratio=0.1, reserve=reserve))
    return collected(run), run


def racing(world: Slow, order: str, *, after: float | None = 0.02, budget: RetryBudget | None = None) -> Attempts:
    return Attempts(
        metadata=RequestMetadata(deadline=10.0),
        decision=Decision(order=tuple(order), excluded={}, policy="p", digest="d"),
        open_stream=world.open,
        sleep=asyncio.sleep,
        breakers={name: HealthProbe(failures=100, open_s=30.0) for name in NAMES},
        budget=budget or RetryBudget(ratio=0.1),
        retries=0,
        race=TaskRace,
        patience=lambda name: after,
    )


def collected(run: Attempts) -> str:
    async def collect() -> str:
        return "".join([chunk.text async for chunk in run.run()])

    return asyncio.run(collect())


def test_a_silent_backend_gets_a_rival_and_the_first_token_wins():
    world = Slow(a=5.0, b=0.0)
    text, run = hedged(world, "ab")
    assert (text, world.calls, world.cancelled) == ("b", ["a", "b"], ["a"])
    assert [(record.backend, record.error) for record in run.records] == [("a", "Cancelled"), ("b", "")]
    assert [record.hedge for record in run.records] == [False, True]
    assert run.breakers["a"].breaker == "closed", "to be slower than another is no failure"


def test_a_rival_that_is_slower_is_cancelled():
    world = Slow(a=0.06, b=5.0)
    assert hedged(world, "ab")[0] == "a"
    assert world.cancelled == ["b"]


def test_a_quick_backend_gets_no_rival():
    world = Slow(a=0.0, b=0.0)
    assert hedged(world, "ab", after=5.0)[0] == "a"
    assert world.calls == ["a"]


def test_a_rival_that_fails_leaves_the_first_running_and_the_next_one_starts():
    world = Slow(a=5.0, b=BackendUnavailable("down", backend="b"), c=0.0)
    text, _ = hedged(world, "abc")
    assert (text, world.calls, world.cancelled) == ("c", ["a", "b", "c"], ["a"])


def test_rivals_draw_from_the_retry_budget_and_without_it_there_are_none():
    world = Slow(a=0.05, b=0.0)
    assert hedged(world, "ab", reserve=0.0)[0] == "a"
    assert world.calls == ["a"]
    assert hedged(Slow(a=BackendUnavailable("down", backend="a"), b=0.0), "ab", reserve=0.0)[0] == "b"


def test_a_rival_is_paid_for_once():
    budget = RetryBudget(ratio=0.0, reserve=5.0)
    run = racing(Slow(a=5.0, b=0.0), "ab", budget=budget)
    assert (collected(run), budget.left) == ("b", 4.0)


def test_three_silent_ones_at_a_time_are_enough():
    world = Slow(a=0.2)
    run = racing(world, "a")
    run.nodes = {"a": 5}
    assert (collected(run), world.calls) == ("a", ["a"] * 3)


def test_nobody_outside_the_decision_is_a_rival():
    world = Slow(a=0.05, b=0.0, c=0.0)
    assert hedged(world, "a")[0] == "a"
    assert world.calls == ["a"]


def test_broken_trust_in_one_lane_ends_the_request_and_cancels_the_other():
    world = Slow(a=5.0, b=UntrustedPeer("wrong name", backend="b"))
    with pytest.raises(UntrustedPeer):
        hedged(world, "ab")
    assert world.cancelled == ["a"]


def test_a_rival_that_nothing_pays_for_still_has_its_turn_when_the_first_has_failed():
    class Empty(RetryBudget):
        """Another request takes the last token between the look and the withdrawal."""

        def withdraw(self) -> bool:
            return False

    class Fails(Slow):
        async def open(self, name: str, given: PartialAnswer) -> AsyncGenerator[Chunk, None]:
            async for chunk in super().open(name, given):
                if name == "a":
                    raise BackendUnavailable("down", backend="a")
                yield chunk

    world = Fails(a=0.05, b=0.0)
    run = racing(world, "ab", budget=Empty(ratio=0.1))
    assert (collected(run), world.calls) == ("b", ["a", "b"])


def test_once_two_nodes_of_one_backend_are_silent_another_backend_is_the_next_rival():
    world = Slow(a=5.0, b=0.0)
    run = racing(world, "ab")
    run.nodes = {"a": 3}
    assert (collected(run), world.calls) == ("b", ["a", "a", "b"])


def test_a_lost_race_leaves_the_half_open_breaker_to_the_next_request():
    now = [0.0]
    breakers = {name: HealthProbe(failures=1, open_s=30.0, clock=lambda: now[0]) for name in NAMES}
    breakers["a"].failed()
    now[0] = 30.0
    run = racing(Slow(a=5.0, b=0.0), "ab")
    run.breakers = breakers
    assert collected(run) == "b"
    assert breakers["a"].admit()


def test_a_loser_that_has_its_first_token_as_well_is_closed():
    closed: list[str] = []

    async def stream(name: str) -> AsyncGenerator[Chunk, None]:
        try:
            yield Chunk(text=name)
        finally:
            closed.append(name)

    async def both() -> str:
        race = TaskRace()
        for name in "ab":
            race.start(Attempt(name=name, stream=stream(name), began=0.0))
        winner = await race.ready(None)
        assert winner is not None
        await asyncio.sleep(0)
        losers = await race.stop()
        assert [lane.name for lane in losers] == closed == ["b"]
        return winner.name

    assert asyncio.run(both()) == "a"
