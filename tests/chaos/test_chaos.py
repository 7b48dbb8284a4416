"""The short part of the chaos suite: a few faults, real node processes, some dozens of requests under each."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hybrid_llm.core.errors import DeadlineExceeded, HybridLLMError, StreamInterrupted, UntrustedPeer
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.chaos import faults
from tests.chaos.exact import ExactEdge, answer_to, prompt_of
from tests.chaos.parts import Counting, run_parts
from tests.chaos.report import row
from tests.chaos.suite import Scene, play
from tests.chaos.traffic import Case, Outcome, Traffic, is_exact
from tests.chaos.world import World

REQUESTS = int(os.environ.get("HYBRID_TESTS_CHAOS_REQUESTS", "40"))


@pytest.fixture(scope="module")
def world():
    with World() as made:
        yield made


@pytest.mark.parametrize(
    "kind", [faults.Kill, faults.Stop, faults.Cut, faults.Swapped, faults.DiskFull, faults.Closed], ids=lambda k: k.name
)
def test_whatever_goes_wrong_every_request_ends_once_and_no_answer_is_wrong(world, kind):
    (told,) = play(world, [kind], requests=REQUESTS, seed=1)
    assert (told.lost, told.wrong, told.avoidable) == (0, 0, 0), told.examples
    assert told.requests == REQUESTS
    assert told.answered > 0 or kind.ends_clients  # they may be closed before the first answer
    assert kind.ends_clients or told.back_s is not None, "no node answered again after the fault was gone"


def outcome(**fields) -> Outcome:
    case = Case(kind="stream", prompt=prompt_of(1, 3), deadline=1.0)
    made = Outcome(case, is_exact, began=1.0, ended=1.5)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"error": HybridLLMError("typed")}, (0, 0, 0)),
        ({"error": HybridLLMError("typed"), "ended": 2.2}, (0, 0, 1)),
        ({"error": HybridLLMError("typed"), "text": answer_to(prompt_of(1, 3))[:5]}, (0, 0, 0)),
        ({"error": HybridLLMError("typed"), "text": "something else"}, (0, 1, 0)),
        ({"error": RuntimeError("untyped")}, (1, 0, 0)),
        ({"ended": 0.0}, (1, 0, 0)),
        ({"text": answer_to(prompt_of(1, 3))}, (1, 0, 0)),
        ({"text": answer_to(prompt_of(1, 3))[:5], "left": 1.4}, (0, 0, 0)),
        ({"text": answer_to(prompt_of(1, 3))[1:], "left": 1.4}, (0, 1, 0)),
    ],
)
def test_the_judge_knows_what_is_lost_wrong_and_late(fields, told):
    judged = row("a fault", [outcome(**fields)], {}, None, "")
    assert (judged.lost, judged.wrong, judged.late) == told
    assert judged.bad is (told[:2] != (0, 0))


def test_a_run_in_parts_has_the_results_of_all_and_ends_with_the_first_that_fails():
    assert sorted(run_parts([Counting(3), Counting(1)], jobs=2)) == [0, 0, 1, 2]
    failing = run_parts([Counting(2, fails=True), Counting(1)], jobs=1)
    assert [next(failing), next(failing)] == [0, 1]
    with pytest.raises(RuntimeError, match="ended with 1"):
        next(failing)


LATE, CUT = DeadlineExceeded("late", backend="cloud"), StreamInterrupted("cut", backend="cloud")


@pytest.mark.parametrize(
    ("kind", "error", "case", "fields", "meant"),
    [
        (faults.Nothing, LATE, {"hurried": True}, {}, True),
        (faults.Nothing, CUT, {"hurried": True}, {}, False),
        (faults.Nothing, LATE, {}, {}, False),
        (faults.Nothing, CUT, {}, {}, False),
        (faults.Stop, LATE, {"far": True}, {}, False),
        (faults.Offline, LATE, {"far": True}, {}, True),
        (faults.Offline, LATE, {"far": True}, {"began": 9.0, "ended": 9.5}, False),
        (faults.Offline, LATE, {}, {}, False),
        (faults.Offline, CUT, {}, {}, True),
        (faults.Offline, CUT, {}, {"continues": True}, False),
        (faults.RollingRestart, CUT, {}, {}, False),
        (faults.Swapped, UntrustedPeer("not ours", backend="cloud"), {}, {"continues": True}, True),
        (faults.Cut, UntrustedPeer("not ours", backend="cloud"), {}, {}, False),
        (faults.Closed, LATE, {}, {}, True),
    ],
)
def test_an_error_is_avoidable_where_something_unharmed_could_have_answered(kind, error, case, fields, meant):
    one = outcome(error=error, **fields)
    one.case = replace(one.case, **case)
    scene = Scene(kind, 1.2, 5.0)
    assert scene.meant(one) is meant
    judged = row("a fault", [one], {}, None, "", scene.meant)
    assert (judged.avoidable, judged.bad) == (int(not meant), not meant)


@pytest.mark.parametrize(("answer", "wrong"), [(answer_to(prompt_of(1, 3)), 0), (answer_to(prompt_of(1, 3))[:-1], 1)])
def test_a_whole_answer_is_right_only_if_it_is_all_of_the_right_one(answer, wrong):
    class Liar(ExactEdge):
        """Says *answer* whatever it is asked."""

        def _pieces(self, request):
            yield Chunk(text=answer)
            yield Chunk(tokens=0, finish_reason=FinishReason.STOP)

    policy = parse_policy("version: 1\nname: p\n", backends={"edge": Location.EDGE})
    with HybridLLM([Liar()], policy, sensors=FixedSensors()) as llm:
        traffic = Traffic([llm], is_exact)
        traffic.put([Case(kind=kind, prompt=prompt_of(1, 3), deadline=20.0) for kind in ("generate", "astream")])
        judged = row("a liar", traffic.finish(), {}, None, "")
    assert (judged.requests, judged.answered, judged.lost, judged.wrong) == (2, 2, 0, 2 * wrong)
