"""The health of endpoints against a model that keeps the whole history, and against the documentation's drawing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hybrid_llm.core.health import BackendHealth, HealthProbe, RetryBudget
from hybrid_llm.core.signals import Breaker, EndpointHealth

PAGE = Path(__file__).resolve().parents[2] / "docs" / "resilience.md"
FAILURES, OPEN_S, STOPPING_S = 3, 10.0, 2.0


class Replay:
    """Failures, as the documentation has it: which count, when the breaker opens, and what a probe forgives."""

    def __init__(self) -> None:
        self.count, self.hold = 0, 0.0
        self.opened: float | None = None
        self.trial: float | None = None
        self.counted = self.forgiven = self.stopping = float("-inf")
        self.reached, self.silent, self.cancelled = True, False, False

    def note(self, at: float, event: str, detail: float) -> None:
        if event in ("failed", "hung"):
            self._fail(at, began=at - detail if detail >= 0.0 else None, hung=event == "hung")
        elif event == "cancelled":
            self._cancel(at, began=at - detail if detail >= 0.0 else None)
        elif event in ("succeeded", "abandoned", "lost"):
            self.trial = None
            if event == "succeeded":
                self._forget()
        elif event == "trial":
            self.trial = at
        elif event in ("stopping", "serving"):
            self.stopping = at + STOPPING_S if event == "stopping" else float("-inf")
        elif event.startswith("probe_"):
            self._probe(at, event, silent=detail == 1.0)

    def _cancel(self, at: float, *, began: float | None) -> None:
        if self.cancelled:
            self._fail(at, began=began, hung=False)
        else:
            self.cancelled, self.counted, self.trial = True, at, None

    def _fail(self, at: float, *, began: float | None, hung: bool) -> None:
        if self.silent or at < self.stopping:
            self.trial = None
        elif began is None or began > (self.forgiven if hung else self.counted):
            self.count, self.counted = self.count + 1, at
            if hung:
                self.hold = min(OPEN_S, max(self.hold, at - (began or 0.0)))
            if self.count >= FAILURES or self.opened is not None:
                self.opened, self.trial = at, None

    def _probe(self, at: float, event: str, *, silent: bool) -> None:
        if event == "probe_succeeded" and not self.reached:
            self._forget()
            self.counted = self.forgiven = at
        elif event == "probe_succeeded" and self.opened is not None and at >= self.counted + self.hold:
            hold, cancelled = min(OPEN_S, 2 * self.hold or 0.1), self.cancelled
            self._forget()
            self.cancelled = cancelled
            self.count, self.hold, self.counted, self.forgiven = FAILURES - 1, hold, at, at
        self.reached, self.silent = event != "probe_failed", event == "probe_failed" and silent

    def _forget(self) -> None:
        self.count, self.hold, self.opened, self.trial, self.cancelled = 0, 0.0, None, None, False


class HealthMachine(RuleBasedStateMachine):
    """Every event at any time; the model looks through the list of all events."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.probe = HealthProbe(failures=FAILURES, open_s=OPEN_S, clock=lambda: self.now)
        self.history: list[tuple[float, str, float]] = []

    def note(self, event: str, detail: float = 0.0) -> None:
        self.history.append((self.now, event, detail))

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 5.0, 10.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(event=st.sampled_from(["responded", "succeeded", "abandoned", "lost", "suspect", "stopping", "serving"]))
    def a_call_or_the_node_reports(self, event: str) -> None:
        getattr(self.probe, event)()
        self.note(event, -1.0)

    @rule(times=st.integers(1, FAILURES))
    def calls_fail(self, times: int) -> None:
        for _ in range(times):
            self.a_call_or_the_node_reports("failed")

    @rule(ago=st.sampled_from([0.0, 0.05, 1.5, 12.0]), hung=st.booleans())
    def a_call_that_began_earlier_fails(self, ago: float, *, hung: bool) -> None:
        self.probe.failed(self.now - ago, hung=hung)
        self.note("hung" if hung else "failed", ago)

    @rule(ago=st.sampled_from([-1.0, 0.0, 0.05, 1.5, 12.0]))
    def the_node_ends_a_call(self, ago: float) -> None:
        self.probe.cancelled(None if ago < 0.0 else self.now - ago)
        self.note("cancelled", ago)

    @rule(seconds=st.sampled_from([0.5, 3.0, 15.0]))
    def the_node_is_overloaded(self, seconds: float) -> None:
        self.probe.overloaded(seconds)
        self.note("overloaded", seconds)

    @rule(silent=st.booleans())
    def a_probe_fails(self, *, silent: bool) -> None:
        self.probe.probe_failed("UntrustedPeer", silent=silent)
        self.note("probe_failed", float(silent))

    @rule(event=st.sampled_from(["probe_succeeded", "probe_expired"]))
    def a_probe_succeeds_or_expires(self, event: str) -> None:
        getattr(self.probe, event)()
        self.note(event)

    @precondition(lambda self: len(self.history) > 15)
    @rule()
    def the_client_is_closed(self) -> None:
        self.probe.close()
        self.note("close")

    @rule()
    def a_call_asks_for_admission(self) -> None:
        admitted = self.probe.admit()
        expected = self.breaker() is Breaker.CLOSED or (self.breaker() is Breaker.HALF_OPEN and not self.trial_runs())
        assert admitted is expected
        if admitted and self.breaker() is Breaker.HALF_OPEN:
            self.note("trial")

    def last(self, *events: str) -> tuple[float, str, float]:
        return next((each for each in reversed(self.history) if each[1] in events), (float("-inf"), "", 0.0))

    def replay(self) -> Replay:
        """What the history amounts to, as far as failures are concerned."""
        told = Replay()
        for at, event, detail in self.history:
            told.note(at, event, detail)
        return told

    def breaker(self) -> Breaker:
        opened = self.replay().opened
        if opened is None:
            return Breaker.CLOSED
        return Breaker.HALF_OPEN if self.now - opened >= OPEN_S else Breaker.OPEN

    def trial_runs(self) -> bool:
        began = self.replay().trial
        return began is not None and self.now - began < OPEN_S

    def came_back(self) -> bool:
        """Whether a probe succeeded, after one that failed, when the last overload had been noted."""
        last = max((n for n, each in enumerate(self.history) if each[1] == "overloaded"), default=0)
        reached = True
        for number, (_, event, _) in enumerate(self.history):
            if event.startswith("probe_"):
                if event == "probe_succeeded" and not reached and number > last:
                    return True
                reached = event != "probe_failed"
        return False

    def health(self) -> EndpointHealth:
        overloaded, stopping = self.last("overloaded"), self.last("stopping", "serving")
        probed = self.last("probe_failed", "probe_succeeded", "probe_expired")
        doubted = self.last("suspect", "responded", "succeeded", "probe_failed", "probe_succeeded", "probe_expired")
        rested = self.now < overloaded[0] + overloaded[2] and not self.came_back()
        facts = {
            EndpointHealth.CLOSED: self.last("close")[1] == "close",
            EndpointHealth.UNREACHABLE: probed[1] == "probe_failed",
            EndpointHealth.STOPPING: stopping[1] == "stopping" and self.now < stopping[0] + STOPPING_S,
            EndpointHealth.EJECTED: self.breaker() is Breaker.OPEN,
            EndpointHealth.SUSPECTED: doubted[1] == "suspect",
            EndpointHealth.RESTING: rested,
            EndpointHealth.HALF_OPEN: self.breaker() is Breaker.HALF_OPEN,
            EndpointHealth.READY: self.last("responded", "succeeded")[1] != "",
        }
        return next((state for state, holds in facts.items() if holds), EndpointHealth.NEW)

    @invariant()
    def the_state_is_that_of_the_model(self) -> None:
        assert self.probe.breaker is self.breaker()
        assert self.probe.health is self.health()
        assert self.probe.serves is (
            self.last("probe_failed", "probe_succeeded", "probe_expired")[1] == "probe_succeeded"
        )


TestHealth = HealthMachine.TestCase


# The drawing: each state with one fact alone, each event, and where that leads.


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def in_state(state: EndpointHealth) -> tuple[HealthProbe, Clock]:
    """A machine of which one failure opens the breaker, in *state*, which nothing else hides."""
    clock = Clock()
    probe = HealthProbe(failures=1, open_s=OPEN_S, clock=clock)
    if state is not EndpointHealth.NEW:
        probe.responded()
    steps: dict[EndpointHealth, Callable[[], None]] = {
        EndpointHealth.SUSPECTED: probe.suspect,
        EndpointHealth.RESTING: lambda: probe.overloaded(3.0),
        EndpointHealth.EJECTED: probe.failed,
        EndpointHealth.HALF_OPEN: probe.failed,
        EndpointHealth.UNREACHABLE: lambda: probe.probe_failed("UntrustedPeer", silent=False),
        EndpointHealth.STOPPING: probe.stopping,
        EndpointHealth.CLOSED: probe.close,
    }
    steps.get(state, lambda: None)()
    clock.now += OPEN_S if state is EndpointHealth.HALF_OPEN else 0.0
    assert probe.health is state
    return probe, clock


def transitions() -> Iterator[tuple[str, str, str]]:
    for state in EndpointHealth:
        for event in events():
            probe, clock = in_state(state)
            if event == "time":
                clock.now += 60.0
            elif event == "overloaded":
                probe.overloaded(3.0)
            elif event == "probe_failed":
                probe.probe_failed("UntrustedPeer", silent=False)
            else:
                getattr(probe, event)()
            if probe.health is not state:
                yield state.value, event, probe.health.value


def events() -> list[str]:
    """Every method of the machine that reports something, and the passing of time."""
    methods = {name for name in vars(HealthProbe) if not name.startswith("_") and callable(getattr(HealthProbe, name))}
    return [*sorted(methods - {"admit", "configure", "breaker_under"}), "time"]


def test_the_table_in_the_documentation_holds_every_transition_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([\w, ]+) \| (\w+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    told = [(state, event, to) for event, states, to in rows for state in states.split(", ")]
    assert len(told) == len(set(told))
    assert set(told) == set(transitions())


def test_the_diagram_in_the_documentation_holds_every_transition_and_no_other():
    (drawn,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    members: dict[str, set[str]] = {}
    inside: list[str] = []
    edges: list[tuple[str, str, str]] = []
    for line in map(str.strip, drawn.splitlines()):
        if opened := re.fullmatch(r"state (\w+) \{", line):
            inside.append(opened[1])
        elif line == "}":
            inside.pop()
        elif edge := re.fullmatch(r"(\w+) --> (\w+): ([\w, ]+)", line):
            edges += [(edge[1], event, edge[2]) for event in edge[3].split(", ")]
        elif re.fullmatch(r"\w+", line):
            for group in inside:
                members.setdefault(group, set()).add(line)
        else:
            assert line == "[*] --> new"
    expanded = [(state, event, to) for source, event, to in edges for state in members.get(source, {source})]
    assert len(expanded) == len(set(expanded))
    assert set(expanded) == set(transitions())


# The circuit breaker within it.


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def half_open(clock):
    probe = HealthProbe(failures=1, open_s=OPEN_S, clock=clock)
    probe.failed()
    clock.now = OPEN_S
    return probe


def test_half_open_lets_one_trial_pass_and_its_failure_opens_again(half_open):
    assert [half_open.admit(), half_open.admit()] == [True, False]
    half_open.failed()
    assert half_open.breaker is Breaker.OPEN
    assert not half_open.admit()


def test_a_trial_that_never_ends_is_given_up(half_open, clock):
    assert half_open.admit()
    clock.now += OPEN_S
    assert half_open.admit()


def test_a_failed_trial_opens_again_even_when_another_policy_has_raised_the_limit(half_open):
    half_open.configure(failures=10, open_s=OPEN_S)
    assert half_open.admit()
    half_open.failed()
    assert half_open.breaker is Breaker.OPEN


def test_a_trial_without_a_verdict_lets_the_next_one_pass(half_open):
    assert [half_open.admit(), half_open.admit()] == [True, False]
    half_open.abandoned()
    assert half_open.breaker is Breaker.HALF_OPEN
    assert half_open.admit()


# Several endpoints together.


def several(clock: Clock, number: int) -> tuple[BackendHealth, list[HealthProbe]]:
    probes = [HealthProbe(failures=1, open_s=1.0, clock=clock) for _ in range(number)]
    health = BackendHealth(lambda: probes)
    health.configure(failures=4, open_s=30.0)
    return health, probes


def fail(probe: HealthProbe, times: int) -> None:
    for _ in range(times):
        probe.failed()


def test_the_breaker_of_one_endpoint_is_that_of_its_backend_with_the_limits_of_the_policy(clock):
    health, (probe,) = several(clock, 1)
    fail(probe, 3)
    assert (health.breaker, health.admit()) == (Breaker.CLOSED, True)
    fail(probe, 1)
    assert (health.breaker, health.admit()) == (Breaker.OPEN, False)
    clock.now = 30.0
    assert (health.breaker, health.admit()) == (Breaker.HALF_OPEN, True)
    assert probe.admit()
    assert not health.admit(), "the trial is under way"
    probe.succeeded()
    assert health.breaker is Breaker.CLOSED


def test_one_of_several_is_ejected_after_two_failures_and_five_seconds_later_tried_again(clock):
    health, probes = several(clock, 2)
    fail(probes[0], 2)
    assert [probe.health for probe in probes] == [EndpointHealth.EJECTED, EndpointHealth.NEW]
    assert health.breaker is Breaker.CLOSED
    clock.now = 5.0
    assert probes[0].health is EndpointHealth.HALF_OPEN


def test_several_open_together_only_once_each_has_failed_as_often_as_the_policy_says(clock):
    health, probes = several(clock, 3)
    for probe in probes:
        fail(probe, 3)
    assert {probe.breaker for probe in probes} == {Breaker.OPEN}
    assert health.admit(), "as a last resort an ejected endpoint is called"
    for probe in probes:
        fail(probe, 1)
    assert (health.breaker, health.admit()) == (Breaker.OPEN, False)
    clock.now = 29.0
    assert not health.admit()
    clock.now = 30.0
    assert (health.breaker, health.admit()) == (Breaker.HALF_OPEN, True)
    probes[1].succeeded()
    assert health.breaker is Breaker.CLOSED


def test_endpoints_that_do_not_respond_do_not_count_for_the_breaker_of_the_backend(clock):
    health, probes = several(clock, 2)
    probes[0].probe_failed("BackendUnavailable", silent=True)
    fail(probes[0], 9)
    assert (probes[0].breaker, health.breaker) == (Breaker.CLOSED, Breaker.CLOSED)
    fail(probes[1], 4)
    assert health.breaker is Breaker.OPEN
    probes[1].probe_failed("BackendUnavailable", silent=True)
    assert health.breaker is Breaker.CLOSED, "the backend is not ready, which says it all"


def test_an_endpoint_that_was_unreachable_starts_anew_once_a_probe_succeeds(clock):
    health, (probe,) = several(clock, 1)
    probe.probe_failed("BackendUnavailable", silent=False)
    fail(probe, 4)
    assert (probe.health, health.breaker) == (EndpointHealth.UNREACHABLE, Breaker.OPEN)
    probe.probe_succeeded()
    assert (probe.health, health.breaker) == (EndpointHealth.NEW, Breaker.CLOSED)


def test_a_probe_ends_an_ejection_each_time_later_until_a_call_succeeds(clock):
    health, (probe,) = several(clock, 1)
    fail(probe, 4)
    probe.probe_succeeded()
    assert health.breaker is Breaker.CLOSED
    for hold in (0.1, 0.2, 0.4):
        fail(probe, 1)
        assert health.breaker is Breaker.OPEN, "one failure is enough"
        clock.now += hold - 0.01
        probe.probe_succeeded()
        assert health.breaker is Breaker.OPEN, "too early"
        clock.now += 0.02
        probe.probe_succeeded()
        assert health.breaker is Breaker.CLOSED
    probe.succeeded()
    fail(probe, 3)
    assert health.breaker is Breaker.CLOSED
    fail(probe, 1)
    probe.probe_succeeded()
    assert health.breaker is Breaker.CLOSED


@pytest.mark.parametrize(("was_gone", "health"), [(True, EndpointHealth.READY), (False, EndpointHealth.RESTING)])
def test_an_endpoint_that_was_gone_no_longer_rests_when_it_is_back(*, was_gone, health):
    probe, _ = in_state(EndpointHealth.RESTING)
    if was_gone:
        probe.probe_failed("UntrustedPeer", silent=False)
    probe.probe_succeeded()
    assert probe.health is health


def test_calls_that_fail_together_count_once(clock):
    health, (probe,) = several(clock, 1)
    clock.now = 5.0
    for began in (1.0, 2.0, 3.0, 4.9):
        probe.failed(began)
    assert health.breaker is Breaker.CLOSED
    for began in (5.1, 6.1, 7.1):
        clock.now = began + 0.9
        probe.failed(began)
    assert health.breaker is Breaker.OPEN


def test_of_calls_that_hung_each_counts_unless_a_probe_succeeded_meanwhile(clock):
    health, (probe,) = several(clock, 1)
    clock.now = 5.0
    for began in (1.0, 2.0, 3.0, 4.0):
        probe.failed(began, hung=True)
    assert health.breaker is Breaker.OPEN
    clock.now = 8.9
    probe.probe_succeeded()
    assert health.breaker is Breaker.OPEN, "the longest call hung for four seconds"
    clock.now = 9.0
    probe.probe_succeeded()
    probe.failed(4.5, hung=True)
    assert health.breaker is Breaker.CLOSED


def test_a_lost_connection_is_no_failure(clock):
    health, (probe,) = several(clock, 1)
    for _ in range(9):
        clock.now += 1.0
        probe.lost()
    assert (health.breaker, health.lost_at) == (Breaker.CLOSED, 9.0)


def test_endpoints_that_are_added_get_the_limits_too(clock):
    health, probes = several(clock, 1)
    probes.append(HealthProbe(failures=9, open_s=99.0, clock=clock))
    health.refresh()
    fail(probes[1], 2)
    assert probes[1].health is EndpointHealth.EJECTED


# The retry budget.


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
