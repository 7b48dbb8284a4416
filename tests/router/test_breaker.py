"""The circuit breaker as a state machine, and the retry budget as an inequality."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybrid_llm.core.health import HealthProbe, RetryBudget
from hybrid_llm.core.signals import Breaker


class BreakerMachine(RuleBasedStateMachine):
    """Compared with a model that keeps the whole history."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = HealthProbe(failures=3, open_s=10.0, clock=lambda: self.now)
        self.streak = 0
        self.opened: float | None = None
        self.probes = 0

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if seconds >= 10.0:
            self.probes = 0

    @rule()
    def a_call_works(self) -> None:
        self.breaker.succeeded()
        self.streak, self.opened, self.probes = 0, None, 0

    @rule()
    def a_call_fails(self) -> None:
        self.breaker.failed()
        self.streak += 1
        if self.streak >= 3 or self.opened is not None:
            self.opened, self.probes = self.now, 0

    @rule()
    def a_call_is_admitted_only_when_closed_or_as_the_one_probe(self) -> None:
        admitted = self.breaker.admit()
        if self.opened is None:
            assert admitted
        elif self.now - self.opened < 10.0:
            assert not admitted
        elif admitted:
            self.probes += 1

    @invariant()
    def the_state_is_that_of_the_model(self) -> None:
        expected = Breaker.CLOSED
        if self.opened is not None:
            expected = Breaker.HALF_OPEN if self.now - self.opened >= 10.0 else Breaker.OPEN
        assert self.breaker.breaker is expected


TestBreaker = BreakerMachine.TestCase


def test_half_open_lets_one_probe_pass_and_its_failure_opens_again():
    now = [0.0]
    breaker = HealthProbe(failures=1, open_s=10.0, clock=lambda: now[0])
    breaker.failed()
    now[0] = 10.0
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.failed()
    assert breaker.breaker is Breaker.OPEN
    assert not breaker.admit()


def test_an_abandoned_probe_is_given_up():
    now = [0.0]
    breaker = HealthProbe(failures=1, open_s=10.0, clock=lambda: now[0])
    breaker.failed()
    now[0] = 10.0
    assert breaker.admit()
    now[0] = 20.0
    assert breaker.admit()


@given(st.lists(st.booleans(), max_size=300), st.floats(0.0, 1.0), st.floats(0.0, 10.0))
def test_retries_never_exceed_the_reserve_plus_the_share_of_requests(steps, ratio, reserve):
    budget, requests, retries = RetryBudget(ratio=ratio, reserve=reserve), 0, 0
    for is_request in steps:
        if is_request:
            budget.deposit()
            requests += 1
        else:
            retries += budget.withdraw()
    assert retries <= reserve + ratio * requests + 1e-6


def test_requests_fill_the_budget_again():
    budget = RetryBudget(ratio=0.5, reserve=1.0)
    assert [budget.withdraw(), budget.withdraw()] == [True, False]
    budget.deposit()
    budget.deposit()
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_a_failed_probe_opens_again_even_when_another_policy_has_raised_the_limit():
    now = [0.0]
    breaker = HealthProbe(failures=1, open_s=10.0, clock=lambda: now[0])
    breaker.failed()
    breaker.configure(failures=10, open_s=10.0)
    now[0] = 10.0
    assert breaker.admit()
    breaker.failed()
    assert breaker.breaker is Breaker.OPEN


def test_a_probe_that_tells_nothing_lets_the_next_one_pass():
    now = [0.0]
    breaker = HealthProbe(failures=1, open_s=10.0, clock=lambda: now[0])
    breaker.failed()
    now[0] = 10.0
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.abandoned()
    assert breaker.breaker is Breaker.HALF_OPEN
    assert breaker.admit()
