"""The short part of the chaos suite: a few faults, real node processes, some dozens of requests under each."""

from __future__ import annotations

import os

import pytest

from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.chaos import faults
from tests.chaos.exact import ExactEdge, answer_to, prompt_of
from tests.chaos.report import row
from tests.chaos.suite import play
from tests.chaos.traffic import Case, Outcome, Traffic, is_exact
from tests.chaos.world import World

REQUESTS = int(os.environ.get("HYBRID_LLM_CHAOS_REQUESTS", "40"))


@pytest.fixture(scope="module")
def world():
    with World() as made:
        yield made


@pytest.mark.parametrize(
    "kind", [faults.Kill, faults.Stop, faults.Cut, faults.Swapped, faults.DiskFull, faults.Closed], ids=lambda k: k.name
)
def test_whatever_goes_wrong_every_request_ends_once_and_no_answer_is_wrong(world, kind):
    (told,) = play(world, [kind], requests=REQUESTS, seed=1)
    assert (told.lost, told.wrong) == (0, 0), told.examples
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
