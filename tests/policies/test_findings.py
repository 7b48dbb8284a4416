"""Rules that cannot matter are found and told; and never is a rule called dead that could match."""

from __future__ import annotations

import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, Breaker, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies import KNOWN_DETECTORS, load_policy, parse_policy
from hybrid_llm.policies.language.check import Checker
from hybrid_llm.policies.language.compile import check_constants, compile_expression
from hybrid_llm.policies.language.parser import parse
from hybrid_llm.policies.language.schema import Objectives, Schema
from hybrid_llm.policies.lint.analysis import Outcome, Solver
from hybrid_llm.policies.lint.findings import check_guards
from tests.policies.test_properties import SETTINGS

HEAD = "version: 1\nname: dead\ntags:\n  phi: {allow: [edge], detect: [email]}\n  public: {allow: [edge, cloud]}\n"
OBJECTIVES = Objectives(ttft_ms=400.0)


def policy_of(*rules: str) -> str:
    body = ""
    for rule in rules:
        head, _, when = rule.partition(" when ")
        body += f"  - {head}\n" + (f"    when: >-\n      {when}\n" if when else "")
    return f"{HEAD}objectives: {{ttft: 400ms}}\nrules:\n{body}"


def errors_of(*rules: str) -> list[str]:
    try:
        parse_policy(policy_of(*rules))
    except PolicyError as error:
        return [str(one).split("\n")[0].split(": ", 1)[1] for one in error.errors]
    return []


def warnings_of(*rules: str) -> list[str]:
    return [warning.message for warning in parse_policy(policy_of(*rules)).warnings]


NEVER = [
    "has(device.battery) && device.battery > 50% && device.battery < 20%",
    "has(device.battery) && device.battery > 120%",
    "has(device.battery) && (device.battery > 90% && device.cpu_load > 1% && device.battery <= 0.9)",
    "device.cpu_load < 0.0",
    "device.cpu_load in [1.5, 2.0]",
    "has(device.cpu_pressure) && device.cpu_pressure > 101%",
    "edge.queue > 3 && edge.queue < 4",
    "edge.queue == 2.5",
    "request.prompt_tokens < 0",
    "size(request.task) < 0",
    "edge.predicted_ttft_ms < 0ms",
    "budget.spent < 1 USD && budget.spent > 2 USD",
    'edge.breaker == "closed" && edge.breaker == "open"',
    '!(edge.breaker in ["closed", "open", "half_open"])',
    'edge.breaker != "closed" && edge.breaker != "open" && edge.breaker != "half_open"',
    'edge.breaker.startsWith("x")',
    'edge.location == "edge" && edge.location == "cloud"',
    'request.task == "chat" && request.task != "chat"',
    'request.task in ["a", "b"] && request.task in ["c"]',
    'request.task == "chat" && request.task.matches("^x")',
    'request.task.startsWith("ab") && !request.task.startsWith("a")',
    'request.task.startsWith("ab") && request.task.startsWith("b")',
    'request.task.endsWith("x") && request.task.endsWith("y")',
    'request.task.startsWith("abc") && !request.task.contains("b")',
    'request.task.matches("x+") && !request.task.matches("x+")',
    '"phi" in request.tags && !("phi" in request.tags)',
    "has(network.metered) && !has(network.metered)",
    "has(network.metered) && network.metered && !network.metered",
    "network.online == !network.online",
    "network.online ? !network.online : network.online",
    "request.prompt_tokens > edge.context_window && edge.context_window >= request.prompt_tokens",
    "request.prompt_tokens + request.max_tokens > 10 && request.max_tokens + request.prompt_tokens < 5",
    "edge.predicted_ttft_ms > objectives.ttft_ms && edge.predicted_ttft_ms < 400ms",
    "network.online && edge.queue > 5 && (edge.queue < 3 || !network.online)",
    "request.prompt_tokens < request.prompt_tokens",
    "!(network.online || !network.online)",
]


@pytest.mark.parametrize("condition", NEVER)
def test_a_rule_that_can_never_match_is_an_error(condition):
    (error,) = errors_of(f"exclude: edge when {condition}")
    assert error.startswith("this rule never matches: ")


def test_the_field_that_no_value_fits_is_named_where_it_is_one():
    assert "no value of `device.battery` fits all of it" in errors_of(f"exclude: edge when {NEVER[0]}")[0]
    assert (
        "no value of `edge.breaker` fits"
        in errors_of('prefer: edge when edge.breaker == "open" && edge.breaker == "closed"')[0]
    )


POSSIBLE = [
    'request.task.startsWith("ab") && request.task.startsWith("a")',
    'request.task.startsWith("a") && request.task.startsWith("ab")',
    'request.task.contains("ab") && !request.task.startsWith("ab")',
    'request.task.endsWith("ab") && !request.task.startsWith("ab")',
    'request.task >= "b" && !(request.task <= "a")',
    "edge.load / edge.load != 1.0 && !(edge.load / edge.load < 1.0) && !(edge.load / edge.load > 1.0)",
    "!has(device.battery)",
    "has(device.battery) && device.battery <= 100% && device.battery >= 100%",
    "edge.queue > 3 && edge.queue < 5",
    "device.cpu_load > 3% && device.cpu_load < 4%",
    "edge.load > 120%",
    "has(device.temperature_c) && device.temperature_c < -10.0",
    "10 < edge.queue && edge.queue > 11 && 13 > edge.queue && edge.queue < 14",
    "network.online != edge.ready",
    "(network.online ? edge.ready : network.online) == false",
]


@pytest.mark.parametrize("condition", POSSIBLE)
def test_a_rule_that_could_match_is_never_refused(condition):
    assert errors_of(f"exclude: edge when {condition}") == []


@pytest.mark.parametrize(
    "condition",
    [
        "request.prompt_tokens * 2 > 5 || request.prompt_tokens * 2 <= 5",
        "-request.prompt_tokens > 5 || -request.prompt_tokens <= 5",
        'request.task.matches("a") || !request.task.matches("a")',
        "edge.ready || !edge.ready",
        "edge.load > 1.0 || edge.load <= 1.0",
        "(edge.ready ? network.online : network.online) || !network.online",
    ],
)
def test_a_rule_behind_one_that_may_fail_is_let_pass(condition):
    """An overflow, a text that no pattern can read, a backend of which nothing is known: then the next rule counts."""
    assert errors_of(f"prefer: [cloud, edge] when {condition}", "rank: {cost: 1.0}") == []


ALWAYS = [
    "network.online || !network.online",
    "request.prompt_tokens >= 0",
    "request.prompt_tokens < 10 || request.prompt_tokens > 5",
    'request.task == "a" || request.task != "a"',
    '"phi" in request.tags || !("phi" in request.tags)',
    "has(network.metered) ? true : !has(network.metered)",
]


@pytest.mark.parametrize("condition", ALWAYS)
def test_a_rule_behind_one_that_always_matches_is_an_error(condition):
    rules = f"prefer: [cloud, edge] when {condition}", "rank: {cost: 1.0}"
    assert errors_of(*rules) == ["this rule is never reached: rules[0] always matches"]
    assert warnings_of(rules[0]) == ["this condition always holds"]


UNREACHED = [
    ("device.cpu_load > 50%", "device.cpu_load > 80%"),
    ("device.cpu_load > 50% || network.online", "device.cpu_load > 80% && request.max_tokens > 5"),
    ("has(device.battery) && device.battery < 30%", "has(device.battery) && device.battery < 20% && network.online"),
    ("edge.predicted_ttft_ms <= objectives.ttft_ms", "edge.predicted_ttft_ms < 0.2s"),
    ('request.task in ["a", "b"]', 'request.task == "b"'),
    ('request.task.startsWith("a")', 'request.task.startsWith("ab")'),
    ("!network.online", "!network.online && edge.ready"),
    ("request.prompt_tokens > edge.context_window", "edge.context_window < request.prompt_tokens"),
]


@pytest.mark.parametrize(("first", "second"), UNREACHED)
def test_a_prefer_that_an_earlier_one_implies_is_an_error_and_the_other_order_is_right(first, second):
    message = "this rule is never reached: rules[0] matches whenever this one does"
    assert errors_of(f"prefer: edge when {first}", f"prefer: cloud when {second}") == [message]
    if first != "request.prompt_tokens > edge.context_window":
        assert errors_of(f"prefer: edge when {second}", f"prefer: cloud when {first}") == []


def test_a_rule_that_several_earlier_ones_cover_together_is_an_error():
    rules = "prefer: edge when request.max_tokens < 10", "prefer: cloud when request.max_tokens > 5"
    message = "this rule is never reached: wherever it could match, one before it does"
    assert errors_of(*rules, "prefer: cloud when network.online") == [message]
    assert errors_of(*rules, "rank: {cost: 1.0}") == [message]


def test_a_rule_for_what_cannot_be_read_is_no_error():
    rules = "prefer: edge when device.cpu_load < 50%", "prefer: cloud when device.cpu_load >= 50%"
    assert errors_of(*rules, "rank: {cost: 1.0}") == []
    assert warnings_of(*rules, "rank: {cost: 1.0}") == []
    (warning,) = warnings_of(*rules, "prefer: cloud when network.online")
    assert warning == "this rule is reached only where a signal that an earlier rule reads cannot be read"


def test_an_exclude_that_repeats_an_earlier_one_is_an_error():
    conditions = "request.max_tokens > 5 && network.online", "network.online && request.max_tokens > 5.0"
    assert errors_of(*(f"exclude: edge when {condition}" for condition in conditions)) == ["this rule repeats rules[0]"]
    assert errors_of("exclude: edge", "exclude: [edge]") == ["this rule repeats rules[0]"]


def test_an_exclude_that_adds_nothing_is_a_warning():
    message = "this rule adds nothing: rules[0] excludes the same backends whenever this one would"
    narrower = "exclude: edge when request.max_tokens > 5", "exclude: edge when request.max_tokens > 9"
    assert warnings_of(*narrower) == [message]
    assert warnings_of("exclude: [edge, cloud] when network.online", "exclude: edge when network.online") == [message]
    assert warnings_of("exclude: edge when request.max_tokens > 9", "exclude: edge when request.max_tokens > 5") == []
    assert warnings_of("exclude: edge when network.online", "exclude: cloud when network.online") == []
    fails = "edge.load > 2.0 ? request.max_tokens > 9 : request.max_tokens > 7"
    rules = "exclude: edge when request.max_tokens > 5", f"exclude: edge when {fails}"
    assert warnings_of(*rules) == [], "where the load cannot be read, the second one takes the device out"


def test_a_part_that_never_or_always_holds_is_a_warning_with_its_place():
    text = policy_of(
        "exclude: edge when network.online || edge.queue < 0",
        "prefer: cloud when has(device.cpu_load) && network.online",
    )
    found = parse_policy(text, path="p.yaml").warnings
    assert [(warning.line, warning.column, warning.message) for warning in found] == [
        (10, 25, "this part never holds"),
        (13, 7, "this part always holds"),
    ]
    assert str(found[0]).split("\n")[0] == "p.yaml:10:25: warning: this part never holds"
    assert str(found[0]).split("\n")[2].index("^") == 4 + 24


def test_a_condition_without_any_such_thing_has_no_warnings():
    assert warnings_of("exclude: edge when request.max_tokens + request.prompt_tokens > edge.context_window") == []
    assert warnings_of("exclude: edge when device.memory_available_mb * 0.0 != device.memory_available_mb") == []


def test_a_tag_that_nobody_uses_is_a_warning():
    tags = "tags:\n  ghost: {allow: [edge]}\n  seen: {allow: [edge], detect: [email]}\n"
    tags += "  read: {allow: [edge]}\n  listed: {allow: [cloud]}\n"
    rules = 'rules:\n  - exclude: cloud\n    when: \'"read" in request.tags || request.tags == ["listed"]\'\n'
    (warning,) = parse_policy(f"version: 1\nname: t\n{tags}{rules}").warnings
    assert (warning.line, warning.column) == (4, 3)
    assert "`ghost`" in warning.message
    assert parse_policy("version: 1\nname: t\ntags: {public: {allow: [edge, cloud]}}\n").warnings == ()
    assert len(parse_policy("version: 1\nname: t\ntags: {public: {allow: [edge]}}\n").warnings) == 1


ACCEPTING = "version: 1\nname: t\ntags:\n  pii: {{allow: [edge, cloud], to_cloud: pseudonymise, {}}}\n"


def test_accepting_names_that_no_detector_finds_is_a_warning_that_strict_lets_pass():
    text = ACCEPTING.format("detect: [email], accept_undetected_names: true")
    (warning,) = parse_policy(text).warnings
    assert (warning.line, warning.advice) == (4, True)
    assert "names leave as they are" in warning.message


@pytest.mark.parametrize(
    "keys",
    [
        "detect: [email]",
        "detect: [email], accept_undetected_names: false",
        "detect: [email], detect_if_available: [names], accept_undetected_names: true",
        "detect: [email, mine], accept_undetected_names: true",
    ],
)
def test_names_that_a_detector_may_find_need_no_warning(keys):
    assert parse_policy(ACCEPTING.format(keys), detectors=KNOWN_DETECTORS | {"mine"}).warnings == ()


def test_accepting_names_where_there_is_no_cloud_needs_no_warning():
    text = ACCEPTING.format("detect: [email], accept_undetected_names: true")
    assert parse_policy(text, backends={"edge": Location.EDGE}).warnings == ()


def test_loading_a_file_tells_its_warnings_once_in_the_log(tmp_path, caplog):
    path = tmp_path / "odd.yaml"
    path.write_text("version: 1\nname: odd\ntags: {ghost: {allow: [edge]}}\n")
    with caplog.at_level(logging.WARNING, "hybrid_llm.policies"):
        policy = load_policy(path)
    assert [record.getMessage() for record in caplog.records] == [str(policy.warnings[0])]


def test_a_faulty_rule_hides_neither_the_dead_ones_nor_makes_others_dead():
    found = errors_of(
        "prefer: edge when request.nothing > 1", "prefer: cloud when request.max_tokens < 0", "prefer: [cloud, edge]"
    )
    assert len(found) == 2
    assert "no field `nothing`" in found[0]
    assert "never matches" in found[1]


NUMBERS = {
    "request.prompt_tokens": ["0", "3", "4.5", "9"],
    "edge.queue": ["0", "3", "4.0", "9"],
    "device.cpu_load": ["0.0", "20%", "0.5", "100%", "2.0"],
    "edge.predicted_ttft_ms": ["0ms", "400ms", "objectives.ttft_ms", "-1.0"],
    "(request.prompt_tokens + edge.queue)": ["3", "9"],
    "(device.cpu_load * 2.0)": ["0.4", "1.0"],
    "size(request.task)": ["0", "4", "-1"],
    "(device.cpu_load / (device.cpu_load - 0.5))": ["0.0", "1.0"],
    "(9 / edge.queue)": ["0", "3"],
}
OPTIONAL = {"device.battery": ["20%", "0.5", "1.5"], "device.temperature_c": ["20.0", "-5.0"]}
OPERATORS = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
PLAIN = st.sampled_from(
    [
        "network.online",
        "edge.ready",
        "has(device.battery)",
        "has(network.metered)",
        "(has(network.metered) && network.metered)",
        '"phi" in request.tags',
        'request.task == "chat"',
        'request.task != "ask"',
        '"chat" >= request.task',
        'request.task in ["chat", "ask"]',
        'request.task.startsWith("ch")',
        'request.task.endsWith("t")',
        'request.task.contains("ha")',
        'request.task.matches("^[ac]")',
        'edge.breaker == "open"',
        'edge.breaker in ["closed", "open"]',
        "request.prompt_tokens > edge.queue",
        "edge.queue <= request.prompt_tokens",
        "edge.predicted_ttft_ms < cloud.predicted_ttft_ms",
        "device.cpu_load in [0.2, 0.5]",
        "request.prompt_tokens in [3, 9.0]",
        "network.online == edge.ready",
        "(network.online ? edge.queue : 3) > 2",
    ]
)


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from([*NUMBERS, *OPTIONAL]))
    value = draw(st.sampled_from((NUMBERS | OPTIONAL)[name]))
    sides = [name, value] if draw(st.booleans()) else [value, name]
    test = f"{sides[0]} {draw(OPERATORS)} {sides[1]}"
    if name not in OPTIONAL:
        return test
    return draw(st.sampled_from([f"(has({name}) && {test})", f"(!has({name}) || {test})"]))


def deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, st.sampled_from([" && ", " || ", " == ", " != "]), inner).map(lambda p: f"({''.join(p)})")
    choice = st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})")
    return st.one_of(pair, pair, inner.map(lambda text: f"!({text})"), choice)


CONDITIONS = st.recursive(
    st.one_of(comparisons().map(lambda text: f"({text})"), PLAIN.map(lambda t: f"({t})")), deeper, max_leaves=7
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[RequestMetadata, Signals]:
    """Within the ranges that the records promise, NaN and backends of which nothing is known included."""
    share = st.sampled_from([0.0, 0.2, 0.3, 0.5, 1.0, math.nan])
    count = st.sampled_from([0, 1, 3, 4, 5, 9, 2**63 - 1])
    millis = st.sampled_from([0.0, 399.0, 400.0, 401.0, math.inf, math.nan])
    request = RequestMetadata(
        prompt_tokens=draw(count),
        task=draw(st.sampled_from(["chat", "ask", "", "cat", "x"])),
        privacy=draw(st.frozensets(st.sampled_from(["phi", "public"]))),
    )
    states = {
        name: BackendState(
            name=name,
            location=Location(name),
            ready=draw(st.booleans()),
            queue=draw(count),
            breaker=draw(st.sampled_from(Breaker)),
            predicted_ttft_ms=draw(millis),
        )
        for name in ("edge", "cloud")
        if draw(st.integers(0, 7))
    }
    device = DeviceSignals(
        cpu_load=draw(share),
        battery=draw(st.one_of(st.none(), share)),
        temperature_c=draw(st.sampled_from([None, -10.0, 20.0, 50.0, math.nan])),
    )
    network = NetworkSignals(online=draw(st.booleans()), metered=draw(st.sampled_from([None, True, False])))
    return request, Signals(device=device, network=network, budget=BudgetSignals(), backends=states)


SCHEMA = Schema({"edge": Location.EDGE, "cloud": Location.CLOUD}, OBJECTIVES)


def typed(condition: str):
    """The checked condition; None where a policy would be refused for it."""
    faults: list[str] = []
    node = Checker(SCHEMA, frozenset({"phi", "public"})).condition(
        parse(condition), lambda *told: faults.append(told[0])
    )
    for check in (check_guards, check_constants):
        if not faults:
            check(node, SCHEMA, lambda *told: faults.append(told[0]))
    return None if faults else node


def outcomes_in(node, world) -> set[Outcome]:
    try:
        value = compile_expression(node, SCHEMA)(*world)
    except Exception:  # noqa: BLE001 - a broken reading may raise anything
        return {Outcome.NOT_TRUE, Outcome.NOT_FALSE}
    return {Outcome.TRUE, Outcome.NOT_FALSE} if value else {Outcome.FALSE, Outcome.NOT_TRUE}


@SETTINGS
@given(st.lists(CONDITIONS, min_size=1, max_size=3), st.lists(worlds(), min_size=6, max_size=12))
def test_what_is_called_impossible_happens_in_no_world(conditions, tried):
    solver = Solver(SCHEMA)
    nodes = [node for node in map(typed, conditions) if node is not None]
    for world in tried:
        seen = [(node, outcome) for node in nodes for outcome in sorted(outcomes_in(node, world), key=str)]
        assert solver.possible(*seen), (conditions, world)


def test_the_solver_gives_up_on_what_is_too_large_and_calls_it_possible():
    """A chain of == is true or false whatever its order; to prove it takes every one of 2 ** 16 ways."""
    asked = [f'request.task.contains("{chr(97 + at)}")' for at in range(16)]
    node = typed(f"({' == '.join(asked)}) != ({' == '.join(reversed(asked))})")
    assert Solver(SCHEMA).possible((node, Outcome.TRUE))
    small = typed(f"({' == '.join(asked[:4])}) != ({' == '.join(reversed(asked[:4]))})")
    assert not Solver(SCHEMA).possible((small, Outcome.TRUE))
