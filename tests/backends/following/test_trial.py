"""When a new version counts as good, and when it does not."""

import math

from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.following.keys import TrialSpec
from hybrid_llm.backends.following.trial import Figures, Outcome, Tally, judge

SPEC = TrialSpec(requests=20, errors=0.1, latency=2.0)
GOOD = Figures(requests=200, failed=0, ttft_ms=100.0, tpot_ms=10.0)
OUTCOMES = st.builds(
    Outcome,
    failed=st.booleans(),
    ttft_ms=st.none() | st.floats(0.1, 1e5),
    tpot_ms=st.none() | st.floats(0.1, 1e5),
)


def tally(*outcomes):
    made = Tally()
    for outcome in outcomes:
        made.add(outcome)
    return made.figures


def test_nothing_is_judged_before_the_trial_ends_unless_too_many_failed():
    assert judge(tally(*[Outcome(failed=False)] * 19), GOOD, SPEC) is None
    assert judge(tally(*[Outcome(failed=False)] * 20), GOOD, SPEC).is_good
    assert judge(tally(*[Outcome(failed=True)] * 2), GOOD, SPEC) is None
    assert "3 of 3 requests failed" in judge(tally(*[Outcome(failed=True)] * 3), GOOD, SPEC).reason


def test_what_failed_before_may_fail_now():
    before = Figures(requests=100, failed=30)
    outcomes = [Outcome(failed=number % 3 == 0) for number in range(20)]  # 7 of 20; 8 are allowed
    assert judge(tally(*outcomes), before, SPEC).is_good
    assert not judge(tally(*outcomes), GOOD, SPEC).is_good


def test_slower_answers_end_the_trial_by_either_time():
    fast = [Outcome(failed=False, ttft_ms=199.0, tpot_ms=19.0)] * 20
    assert judge(tally(*fast), GOOD, SPEC).is_good
    late = [Outcome(failed=False, ttft_ms=201.0, tpot_ms=19.0)] * 20
    assert "first token" in judge(tally(*late), GOOD, SPEC).reason
    slow = [Outcome(failed=False, ttft_ms=199.0, tpot_ms=21.0)] * 20
    assert "further token" in judge(tally(*slow), GOOD, SPEC).reason


def test_a_label_that_is_later_by_a_few_milliseconds_does_not_end_the_trial():
    before = Figures(requests=200, ttft_ms=2.3)
    assert judge(tally(*[Outcome(failed=False, ttft_ms=12.0)] * 20), before, SPEC).is_good
    assert "from 2.3 to 12.4 ms" in judge(tally(*[Outcome(failed=False, ttft_ms=12.4)] * 20), before, SPEC).reason


def test_times_are_not_compared_with_those_of_a_version_that_answered_nothing():
    late = [Outcome(failed=False, ttft_ms=1e6)] * 20
    assert judge(tally(*late), Figures(), SPEC).is_good


@given(st.lists(OUTCOMES, max_size=250), st.integers(1, 200), st.floats(0, 1), st.floats(1, 10))
def test_every_trial_ends_and_a_bad_share_never_passes(outcomes, requests, errors, latency):
    spec = TrialSpec(requests=requests, errors=errors, latency=latency)
    found = tally(*outcomes)
    verdict = judge(found, GOOD, spec)
    if len(outcomes) >= requests:
        assert verdict is not None
    if verdict is not None and verdict.is_good:
        assert found.failed <= errors * requests
        assert found.requests >= requests
        assert (found.ttft_ms or 0.0) <= max(GOOD.ttft_ms * latency, GOOD.ttft_ms + 10.0)
        assert (found.tpot_ms or 0.0) <= GOOD.tpot_ms * latency


@given(st.lists(OUTCOMES, max_size=40))
def test_figures_survive_their_file(outcomes):
    found = tally(*outcomes)
    assert Figures.from_json(found.to_json()) == found
    assert 0.0 <= found.share_failed <= 1.0
    assert not math.isnan(found.share_failed)
