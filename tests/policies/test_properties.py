"""What must hold whatever a policy says and whatever the sensors answer; a plain model of `decide` is the oracle."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import InvalidRequest, PolicyError
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, Breaker, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies import builtin_names, parse_policy

LAYOUTS = [
    {"edge": Location.EDGE, "cloud": Location.CLOUD},
    {"cloud": Location.CLOUD, "edge": Location.EDGE},
    {"near": Location.CLOUD, "edge": Location.EDGE, "far": Location.CLOUD, "phone": Location.EDGE},
    {"edge": Location.EDGE},
]
SETTINGS = settings(
    max_examples=int(os.environ.get("HYBRID_TESTS_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.generate] if os.environ.get("HYBRID_TESTS_NO_SHRINK") else list(Phase),
)
Judge = Callable[[RequestMetadata, Signals], bool]


def number(value: object) -> float:
    """A double as a rule reads it: absent, NaN and things that are no numbers cannot be evaluated."""
    if not isinstance(value, int | float) or value != value:
        raise ArithmeticError
    return value


def either(*sides: Callable[[], bool]) -> bool:
    """`||` of CEL: one side that is true decides, whatever the other one does."""
    found: list[bool | Exception] = []
    for side in sides:
        try:
            found.append(side())
        except ArithmeticError as error:
            found.append(error)
    if True in found:
        return True
    for item in found:
        if isinstance(item, Exception):
            raise item
    return False


def whole(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ArithmeticError
    return value


def edge_of(signals: Signals) -> BackendState:
    return signals.backends["edge"]


CONDITIONS: dict[str, Judge] = {
    "request.prompt_tokens + request.max_tokens > edge.context_window": lambda r, s: (
        whole(r.prompt_tokens + r.max_tokens) > edge_of(s).context_window
    ),
    "request.prompt_tokens * request.max_tokens >= 1000000": lambda r, s: (
        whole(r.prompt_tokens * r.max_tokens) >= 10**6
    ),
    "1000 / request.prompt_tokens > 9": lambda r, s: divisible(r) and abs(1000 // r.prompt_tokens) > 9,
    "device.memory_available_mb < 400.0": lambda r, s: number(s.device.memory_available_mb) < 400.0,
    "device.memory_available_mb < 400.0 || device.cpu_load > 90%": lambda r, s: either(
        lambda: number(s.device.memory_available_mb) < 400.0, lambda: number(s.device.cpu_load) > 0.9
    ),
    "device.memory_available_mb < 400.0 && device.cpu_load > 90%": lambda r, s: (
        not either(
            lambda: not number(s.device.memory_available_mb) < 400.0, lambda: not number(s.device.cpu_load) > 0.9
        )
    ),
    "has(device.battery) && device.battery < 20%": lambda r, s: (
        s.device.battery is not None and number(s.device.battery) < 0.2
    ),
    "!has(device.temperature_c) || device.temperature_c > 85.0": lambda r, s: (
        s.device.temperature_c is None or number(s.device.temperature_c) > 85.0
    ),
    "has(device.charging) ? !device.charging : network.online": lambda r, s: (
        not s.device.charging if s.device.charging is not None else s.network.online
    ),
    "!network.online": lambda r, s: not s.network.online,
    "has(edge.quality) && edge.quality < 80%": lambda r, s: (
        edge_of(s).quality is not None and number(edge_of(s).quality) < 0.8
    ),
    "edge.predicted_ttft_ms > 400ms": lambda r, s: number(edge_of(s).predicted_ttft_ms) > 400.0,
    r'request.task.matches(r"s\w$")': lambda r, s: r.task == "ask",
    "budget.spent > 0.5 USD": lambda r, s: number(s.budget.spent) > 0.5,
    'request.task in ["ask", "sum"]': lambda r, s: r.task in ("ask", "sum"),
    'request.task.startsWith("a") && size(request.task) > 2': lambda r, s: r.task.startswith("a") and len(r.task) > 2,
    '"open" in request.tags': lambda r, s: "open" in r.privacy,
    "request.deadline_ms <= 1s": lambda r, s: number(r.deadline * 1000.0) <= 1000.0,
}


def divisible(request: RequestMetadata) -> bool:
    if request.prompt_tokens == 0:
        raise ArithmeticError
    return True


@dataclass
class Rule:
    kind: str
    targets: list[str]
    condition: str | None
    weights: dict[str, float]

    def text(self) -> str:
        body = json.dumps(self.weights if self.kind == "rank" else self.targets)
        when = f", when: {json.dumps(self.condition)}" if self.condition else ""
        return f"  - {{{self.kind}: {body}{when}}}\n"


@dataclass
class Case:
    backends: dict[str, Location]
    tags: dict[str, list[str]]
    rules: list[Rule]

    def text(self) -> str:
        tags = "".join(f"  {name}: {{allow: {json.dumps(allow)}}}\n" for name, allow in self.tags.items())
        rules = "".join(rule.text() for rule in self.rules)
        return f"version: 1\nname: any\ntags:\n{tags}" + (f"rules:\n{rules}" if rules else "")


@st.composite
def rules(draw: st.DrawFn, names: list[str], kind: str) -> Rule:
    targets = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    weights = draw(
        st.dictionaries(
            st.sampled_from(["latency", "cost", "energy", "quality"]), st.sampled_from([0.5, 1.0, 30.0]), min_size=1
        )
    )
    return Rule(kind, targets, draw(st.sampled_from(list(CONDITIONS))), weights)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    backends = draw(st.sampled_from(LAYOUTS))
    names = sorted({*backends, "edge", "cloud"})
    places = st.lists(st.sampled_from(["edge", "cloud"]), unique=True)
    tags = {"open": draw(places), "shut": draw(places), "mid": draw(places)}
    kinds = draw(st.lists(st.sampled_from(["exclude", "exclude", "prefer", "rank"]), max_size=5))
    found = [draw(rules(names, kind)) for kind in kinds]
    if draw(st.booleans()):
        last = draw(rules(names, draw(st.sampled_from(["prefer", "rank"]))))
        found.append(replace(last, condition=None))
    return reachable(Case(backends, tags, found))


def reachable(case: Case) -> Case:
    """The case without the rules that a policy is refused for: never reached, or repeated. Each stands on one line."""
    first = case.text()[: case.text().find("rules:")].count("\n") + 2
    try:
        parse_policy(case.text(), backends=case.backends)
    except PolicyError as error:
        wrong = {one.line - first for one in error.errors}
        return reachable(replace(case, rules=[rule for at, rule in enumerate(case.rules) if at not in wrong]))
    return case


WEIRD = st.one_of(st.floats(0, 1000), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 0.1, 1e300]))
OPTIONAL = st.one_of(st.none(), WEIRD)
COUNT = st.one_of(st.integers(0, 5000), st.sampled_from([0, 2**62, 2**63 - 1, 2**70]))


@st.composite
def states(draw: st.DrawFn, name: str, location: Location) -> BackendState:
    return BackendState(
        name=name,
        location=draw(st.sampled_from([location] * 9 + list(Location))),
        ready=draw(st.sampled_from([True, True, True, False])),
        reason=draw(st.sampled_from(["", "loading"])),
        breaker=draw(st.sampled_from([Breaker.CLOSED, Breaker.OPEN, *Breaker])),
        serves=draw(st.booleans()),
        context_window=draw(COUNT),
        rtt_ms=draw(OPTIONAL),
        predicted_ttft_ms=draw(WEIRD),
        predicted_tpot_ms=draw(WEIRD),
        cost_per_1k_tokens=draw(WEIRD),
        energy_per_1k_tokens_j=draw(WEIRD),
        quality=draw(st.one_of(OPTIONAL, st.floats(0, 1))),
    )


@st.composite
def worlds(draw: st.DrawFn, backends: dict[str, Location]) -> Signals:
    present = [name for name in backends if draw(st.integers(0, 9))]
    known = {name: draw(states(name, backends[name])) for name in present}
    if not draw(st.integers(0, 9)):
        known["stranger"] = draw(states("stranger", Location.CLOUD))
    device = DeviceSignals(
        cpu_load=draw(WEIRD),
        memory_available_mb=draw(OPTIONAL),  # type: ignore[arg-type]  # a broken sensor
        battery=draw(OPTIONAL),
        charging=draw(st.sampled_from([None, True, False])),
        temperature_c=draw(OPTIONAL),
    )
    budget = BudgetSignals(spent=draw(WEIRD))
    return Signals(device=device, budget=budget, network=NetworkSignals(online=draw(st.booleans())), backends=known)


@st.composite
def requests(draw: st.DrawFn) -> RequestMetadata:
    return RequestMetadata(
        task=draw(st.sampled_from(["ask", "sum", "a", "chat"])),
        privacy=draw(st.frozensets(st.sampled_from(["open", "shut", "mid"]))),
        max_tokens=draw(COUNT),
        prompt_tokens=draw(COUNT),
        deadline=draw(st.sampled_from([0.5, 1.0, 60.0, math.nan, math.inf])),
        created=0.0,
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[Case, RequestMetadata, Signals]:
    case = draw(cases())
    return case, draw(requests()), draw(worlds(case.backends))


def located(case: Case, names: list[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        here = [name] if name in case.backends else [key for key, place in case.backends.items() if place == name]
        found += [key for key in here if key not in found]
    return found


def judged(rule: Rule, request: RequestMetadata, signals: Signals, *, when_unknown: bool) -> bool:
    if rule.condition is None:
        return True
    try:
        return CONDITIONS[rule.condition](request, signals)
    except (ArithmeticError, LookupError, TypeError):
        return when_unknown


def expected_order(case: Case, request: RequestMetadata, signals: Signals) -> tuple[str, ...]:
    """A second `decide`, as plain as it can be written."""
    left = []
    for name, place in case.backends.items():
        state = signals.backends.get(name)
        fit = state is not None and state.location == place and state.ready
        if fit and all(place.value in case.tags[tag] for tag in request.privacy):
            left.append(name)
    for rule in case.rules:
        if rule.kind == "exclude" and judged(rule, request, signals, when_unknown=True):
            left = [name for name in left if name not in located(case, rule.targets)]
    closed = [name for name in left if signals.backends[name].breaker != Breaker.OPEN]
    left = closed or [name for name in left if signals.backends[name].serves]
    for rule in case.rules:
        if rule.kind != "exclude" and judged(rule, request, signals, when_unknown=False):
            if rule.kind == "rank":
                return tuple(sorted(left, key=lambda name: score(rule, request, signals.backends[name])))
            first = located(case, rule.targets)
            return tuple([name for name in first if name in left] + [name for name in left if name not in first])
    return tuple(left)


def score(rule: Rule, request: RequestMetadata, state: BackendState) -> float:
    tokens = (request.prompt_tokens + request.max_tokens) / 1000.0
    parts = {
        "latency": state.predicted_ttft_ms + state.predicted_tpot_ms * request.max_tokens,
        "cost": state.cost_per_1k_tokens * tokens,
        "energy": state.energy_per_1k_tokens_j * tokens,
        "quality": 1.0 - (state.quality or 0.0),
    }
    try:
        total = math.fsum(weight * parts[name] for name, weight in rule.weights.items())
    except (ValueError, OverflowError):
        return math.inf
    return math.inf if math.isnan(total) else total


@SETTINGS
@given(situations())
def test_decide_agrees_with_the_plain_model(situation):
    case, request, signals = situation
    decision = parse_policy(case.text(), backends=case.backends).decide(request, signals)
    assert decision.order == expected_order(case, request, signals)


@SETTINGS
@given(situations())
def test_order_and_exclusions_share_out_the_backends_and_every_exclusion_has_a_reason(situation):
    case, request, signals = situation
    decision = parse_policy(case.text(), backends=case.backends).decide(request, signals)
    assert len(set(decision.order)) == len(decision.order)
    assert set(decision.order) | set(decision.excluded) == {*case.backends, *signals.backends}
    assert not set(decision.order) & set(decision.excluded)
    assert all(decision.excluded.values())


@SETTINGS
@given(situations())
def test_nobody_is_ordered_whom_a_tag_or_the_state_forbids(situation):
    case, request, signals = situation
    decision = parse_policy(case.text(), backends=case.backends).decide(request, signals)
    for name in decision.order:
        state = signals.backends[name]
        assert state.ready
        assert state.breaker is not Breaker.OPEN or (state.serves and name in decision.last_resort)
        assert all(state.location.value in case.tags[tag] for tag in request.privacy)
        assert case.backends[name] is state.location


@SETTINGS
@given(situations())
def test_an_open_breaker_lets_nobody_in_whom_the_policy_would_exclude_with_a_closed_one(situation):
    case, request, signals = situation
    policy = parse_policy(case.text(), backends=case.backends)
    closed = {name: replace(state, breaker=Breaker.CLOSED) for name, state in signals.backends.items()}
    order = policy.decide(request, replace(signals, backends=closed)).order
    opened = [name for name in order if signals.backends[name].breaker is Breaker.OPEN]
    last_resort = {name for name in opened if len(opened) == len(order) and signals.backends[name].serves}
    decision = policy.decide(request, signals)
    assert decision.last_resort == last_resort
    assert decision.order == tuple(name for name in order if name in last_resort or name not in opened)


@SETTINGS
@given(situations())
def test_a_decision_is_repeatable_and_its_trace_tells_the_same_story(situation):
    case, request, signals = situation
    policy = parse_policy(case.text(), backends=case.backends)
    decision = policy.decide(request, signals)
    assert decision == policy.decide(request, signals)
    assert decision == parse_policy(case.text(), backends=case.backends).decide(request, signals)
    ordering = [entry for entry in decision.trace if entry.matched and "exclude" not in entry.rule]
    assert [entry.rule.split()[0] for entry in ordering] == ([] if decision.rule == "default" else [decision.rule])
    for entry in decision.trace:
        label = entry.rule.split()[0]
        if f"({label})" in " ".join(decision.excluded.values()):
            assert entry.matched
    assert decision.explain()


@functools.cache
def alone(condition: str, kind: str):
    """A policy with this one rule, and its case."""
    places = ["edge", "cloud"]
    rule = Rule(kind, ["edge"] if kind == "exclude" else ["cloud"], condition, {})
    case = Case(LAYOUTS[0], {"open": places, "shut": places, "mid": places}, [rule])
    return case, parse_policy(case.text(), backends=case.backends)


@SETTINGS
@given(requests(), worlds(LAYOUTS[0]))
def test_each_condition_means_what_it_says_where_everybody_is_fit(request, signals):
    fit = {
        name: replace(state, ready=True, breaker=Breaker.CLOSED, location=LAYOUTS[0].get(name, state.location))
        for name, state in signals.backends.items()
    }
    signals = replace(signals, backends=fit)
    for condition in CONDITIONS:
        for kind in ("exclude", "prefer"):
            case, policy = alone(condition, kind)
            assert policy.decide(request, signals).order == expected_order(case, request, signals), condition


@SETTINGS
@given(requests(), worlds(LAYOUTS[2]), st.data())
def test_rank_puts_the_least_sum_first(request, signals, data):
    rule = replace(data.draw(rules(["edge"], "rank")), condition=None)
    case = Case(LAYOUTS[2], {"open": ["edge", "cloud"], "shut": ["edge", "cloud"], "mid": ["edge", "cloud"]}, [rule])
    fit = {name: replace(state, ready=True, breaker=Breaker.CLOSED) for name, state in signals.backends.items()}
    signals = replace(signals, backends=fit)
    order = parse_policy(case.text(), backends=case.backends).decide(request, signals).order
    assert order == expected_order(case, request, signals)


@SETTINGS
@given(situations(), st.text(min_size=1, max_size=5))
def test_an_undeclared_tag_is_never_decided(situation, tag):
    case, request, signals = situation
    if tag in case.tags:
        return
    policy = parse_policy(case.text(), backends=case.backends)
    try:
        policy.decide(replace(request, privacy=request.privacy | {tag}), signals)
    except InvalidRequest as error:
        assert error.field == "privacy"
    else:
        raise AssertionError("an undeclared tag was decided")


def places_point_into(text: str) -> None:
    """Parsing ends in a policy or in faults whose places are in the file."""
    try:
        parse_policy(text, path="p")
    except PolicyError as error:
        lines = text.split("\n")
        for one in error.errors:
            assert 1 <= one.line <= len(lines)
            assert 1 <= one.column <= len(lines[one.line - 1]) + 1
            assert str(one).startswith(f"p:{one.line}:{one.column}: ")
            assert str(one) in str(error)


@SETTINGS
@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_a_policy_error(text):
    places_point_into(text)


PIECES = st.sampled_from(
    [
        "'",
        '"',
        ":",
        "\n",
        "  ",
        "-",
        "{",
        "[",
        "&a ",
        "*a",
        "!x ",
        "|",
        ">",
        "%",
        "#",
        "\t",
        "é病",
        "0",
        "null",
        "yes",
        "&&",
        "(",
        "\\",
    ]
)
SOURCES = [f"{name}.yaml" for name in builtin_names()]


@SETTINGS
@given(st.data())
def test_a_damaged_policy_is_a_policy_or_a_policy_error(data):
    name = data.draw(st.sampled_from(SOURCES))
    text = (files("hybrid_llm.policies") / "builtin" / name).read_text("utf-8")
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.one_of(PIECES, st.text(max_size=3))) + text[stop:]
    places_point_into(text)


@SETTINGS
@given(st.text(alphabet="abr.01 <>=!&|+-*/%()[],?:'\"\\msehd_\n", max_size=60))
def test_any_condition_is_a_rule_or_a_policy_error(condition):
    places_point_into(f"version: 1\nname: x\nrules:\n  - exclude: edge\n    when: {json.dumps(condition)}\n")


def test_a_percentage_is_a_part_of_one_beside_shares_and_of_a_hundred_beside_percentages():
    condition = "has(device.battery) && device.battery < 20% || has(device.cpu_pressure) && device.cpu_pressure > 20%"
    text = f"version: 1\nname: p\nrules:\n  - exclude: edge\n    because: x\n    when: '{condition}'\n"
    policy = parse_policy(text, backends={"edge": Location.EDGE})
    states = {"edge": BackendState(name="edge", location=Location.EDGE)}
    asked = RequestMetadata()
    for battery, pressure, out in [(0.5, 10.0, False), (0.1, 10.0, True), (0.5, 19.0, False), (0.5, 21.0, True)]:
        device = DeviceSignals(battery=battery, cpu_pressure=pressure)
        decision = policy.decide(asked, Signals(device=device, backends=states))
        assert (decision.order == ()) is out, (battery, pressure)
