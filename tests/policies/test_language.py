"""What expressions mean, seen through a hard rule that takes the device out."""

import math

import pytest

from hybrid_llm.core.errors import PolicyError
from hybrid_llm.policies import parse_policy

TAGS = "tags:\n  phi: {allow: [edge, cloud]}\n  public: {allow: [edge, cloud]}\n"

TRUE = [
    "request.prompt_tokens == 10",
    "request.prompt_tokens + request.max_tokens == 100",
    "request.prompt_tokens * 2 - 1 == 19",
    "7 / 2 == 3 && -7 / 2 == -3 && 7 % -2 == 1 && -7 % 2 == -1 && request.prompt_tokens > 0",
    "1.0 / 0.0 > 1e308 && request.prompt_tokens > 0",
    "request.prompt_tokens < 10.5",
    "10.0 == request.prompt_tokens",
    "double(request.prompt_tokens) / 4.0 == 2.5",
    "0x0A == request.prompt_tokens",
    "!has(device.battery) || .5 < device.battery",
    'request.task == "chat"',
    "request.task == 'chat'",
    r'request.task == "\x63h\u0061\164"',
    "request.task == r'chat'",
    "request.task == '''chat'''",
    'request.task.startsWith("ch") && request.task.endsWith("at") && request.task.contains("ha")',
    "size(request.task) == 4 && request.task.size() == 4",
    'request.task in ["ask", "chat"]',
    "request.prompt_tokens in [1.5, 10.0]",
    "size(request.tags) == 0",
    "request.message_count == 1 && !request.has_tools && !request.has_schema",
    "request.deadline_ms == 60000.0",
    "request.deadline_ms == 1m",
    "edge.predicted_ttft_ms > 149ms && edge.predicted_ttft_ms < 0.151s",
    "has(device.battery) && device.battery == 80%",
    "has(device.battery) && device.battery > 10%&& true",
    "has(device.cpu_pressure) ? device.cpu_pressure > 10% : true || request.prompt_tokens > 0",
    "1h > 59m && request.prompt_tokens > 0",
    "has(cloud.rtt_ms) && !has(edge.rtt_ms)",
    'cloud.breaker == "closed"',
    "request.prompt_tokens % 4 == 2",
    "!(request.prompt_tokens < 3) == true",
    "request.prompt_tokens > 3 ? request.max_tokens > 3 : false",
    "-request.prompt_tokens == -10",
    "edge.context_window < cloud.context_window",
    'edge.location == "edge"',
    '"b" > "a" && request.prompt_tokens > 0',
    "-9223372036854775808 + request.prompt_tokens < 0",
    "[1, 2] == [1, 2] && request.prompt_tokens > 0",
    "size([1, 2,]) == 2 && request.prompt_tokens > 0",
    "request.task.matches('h.t') && matches(request.task, '^c') && !request.task.matches('^h')",
    "request.task.matches(r'\\Ach\\w+$') && request.task.matches('(?i)CHAT') && request.task.matches('')",
    "request.task.matches('[Ѐ-ӿ]') == false",
    "budget.spent < 0.02 USD && 2 USD > budget.spent && cloud.cost_per_1k_tokens == 0.5 USD",
    "double(request.prompt_tokens) / 10.0 * cloud.cost_per_1k_tokens + 1 USD > 1.49\nUSD",
    "cloud.cost_per_1k_tokens in [0.1 USD, 0.5 USD] && 3 USD > 2 USD || request.prompt_tokens > 0",
    "budget.spent * 2.0 < 1 USD && budget.spent / 2.0 < 1 USD",
    "has(device.battery) && device.battery in [20%, 80%]",
    "device.memory_available_mb / device.memory_total_mb == 50%",
    "has(device.battery) && device.battery > 20% ? true : false",
    "has(device.battery) && 7%!=device.battery && !(7% in [8%, 9%])",
    "edge.predicted_ttft_ms in [150ms, 0.3s] && edge.predicted_ttft_ms / cloud.predicted_ttft_ms == 50%",
]


@pytest.mark.parametrize("condition", TRUE)
def test_condition_holds(holds, condition):
    assert holds(condition)
    assert not holds(f"!({condition})")


def test_tags_are_a_list_of_the_effective_tags(holds):
    assert holds('"phi" in request.tags', head=TAGS, request={"privacy": frozenset({"phi", "public"})})
    assert not holds('"phi" in request.tags', head=TAGS, request={"privacy": frozenset({"public"})})
    assert holds('request.tags == ["phi", "public"]', head=TAGS, request={"privacy": frozenset({"phi", "public"})})


def test_tools_and_schema_show(holds):
    assert holds("request.has_tools && request.has_schema", request={"tool_count": 1, "has_schema": True})


@pytest.mark.parametrize(
    "condition",
    [
        "request.prompt_tokens * 9223372036854775807 > 0",
        "request.prompt_tokens + 9223372036854775807 > 0",
        "-9223372036854775807 - request.prompt_tokens < 0",
        "1 / (request.prompt_tokens - 10) > 1000",
        "1 % (request.prompt_tokens - 10) > 1000",
        "-9223372036854775808 / (9 - request.prompt_tokens) < 0",
    ],
)
def test_a_surprise_in_a_hard_rule_takes_the_backend_out(holds, condition):
    """Overflow and division by zero fail closed, whatever the comparison would have said."""
    assert holds(condition)
    assert holds(f"!({condition})")


@pytest.mark.parametrize("value", [math.nan, None, "hot", object()])
def test_a_reading_that_is_no_number_fails_closed(holds, value):
    assert holds("device.memory_available_mb < 0.5", device={"memory_available_mb": value})
    assert holds("device.memory_available_mb > 1e9", device={"memory_available_mb": value})


def test_a_surprise_in_a_soft_rule_does_not_match(signals, request_):
    text = (
        "version: 1\nname: soft\nrules:\n  - prefer: [cloud, edge]\n    when: 1 / (request.prompt_tokens - 10) >= 0\n"
    )
    decision = parse_policy(text).decide(request_, signals)
    assert (decision.order, decision.rule) == (("edge", "cloud"), "default")


@pytest.mark.parametrize(
    "condition",
    [
        "has(device.battery) && device.battery < 0.2 && has(device.charging) && !device.charging",
        "!has(device.battery) || device.battery < 0.2",
        "has(device.battery) ? device.battery < 0.2 : false",
        "!has(device.battery) ? false : device.battery < 0.2",
        "!(!has(device.battery)) && device.battery < 0.2",
        "!(!has(device.battery) || device.battery < 0.2)",
        "(has(device.battery) && has(device.charging)) && (device.battery < 0.2 || device.charging)",
        "(has(device.battery) && request.max_tokens > 1 || has(device.battery)) && device.battery > 0.1",
        "(has(device.battery) ? true : false) && request.max_tokens > 1 || true",
        "request.max_tokens > 1 && (has(device.battery) && device.battery < 0.2)",
    ],
)
def test_guards_are_followed_through_the_branches(holds, condition):
    holds(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "device.battery < 0.2",
        "has(device.charging) && device.battery < 0.2",
        "has(device.battery) || device.battery < 0.2",
        "!has(device.battery) && device.battery < 0.2",
        "device.battery < 0.2 && has(device.battery)",
        "has(device.battery) ? true : device.battery < 0.2",
        "(has(device.battery) || request.max_tokens > 1) && device.battery < 0.2",
        "!has(device.battery) && request.max_tokens > 1 || device.battery < 0.2",
        "has(edge.rtt_ms) && cloud.rtt_ms > 1.0",
        'request.tenant == "a"',
    ],
)
def test_an_unguarded_read_is_rejected_with_the_guard_to_write(holds, condition):
    with pytest.raises(PolicyError, match=r"hint: write has\([a-z_.]+\) && \.\.\. in front of it"):
        holds(condition)


REFUSED = [
    ("request.prompt_token > 1", "did you mean `prompt_tokens`"),
    ("reqest.prompt_tokens > 1", "did you mean `request`"),
    ("device > 1", "is a group of fields"),
    ("request.prompt_tokens.value > 1", "has no fields"),
    ("request.prompt_tokens", "a condition must be a bool, this is an int"),
    ("request.prompt_tokens > 'a'", "cannot compare an int with a string"),
    ("request.prompt_tokens + 1.0 > 2", "does not take an int and a double"),
    ("request.prompt_tokens && true", "`&&` needs a bool"),
    ("!request.prompt_tokens", "`!` needs a bool"),
    ("-request.task == 'a'", "`-` needs a number"),
    ("request.task in 'chat'", "text.contains"),
    ("request.task in [1, 2]", "a string is never in a list"),
    ("[1, 'a'] == [1]", "a list holds one type"),
    ("request.prompt_tokens > 400ms", "a duration compares with a field that ends in _ms"),
    ("request.prompt_tokens > 10%", "a percentage compares with a field that is a share"),
    ("request.has_tools ? 1 : 'a'", "both values of `?`"),
    ("size(1) == 1", "size\\(\\) needs a string or a list"),
    ("cloud.breaker == 'opened'", "did you mean `open`"),
    ("'phi' in request.tags", "is not a declared tag"),
    ("1 / 0 == 1", "division by zero"),
    ("1 > 2", "never matches"),
    ("9223372036854775807 + 1 > 0", "always fails"),
    ("9223372036854775808 > 0", "does not fit an int"),
    ("1e999 > 0.0", "does not fit a double"),
    ("request.prompt_tokens > 1u", "unsigned"),
    ("b'x' == b'x'", "byte strings"),
    ("null == null", "has\\(\\)"),
    ("request.tags.exists(t, t == 'a')", "macro exists"),
    ("[1].map(x, x)", "macro map"),
    ("request.tags[0] == 'a'", "indexing"),
    ("{'a': 1}.a == 1", "maps and messages"),
    ("duration('1s') > 1s", "write the duration itself"),
    ("timestamp('x') > 1", "cannot read the time"),
    ("request.task.matches('a(')", "not a pattern: missing \\)"),
    ("request.task.matches(r'(?=a)')", "RE2, without look-around"),
    ("request.task.matches(request.task)", "must be a text in quotes"),
    ("request.task.matches('a' + 'b')", "must be a text in quotes"),
    ("request.task.matches(1)", "needs a string, this is an int"),
    ("request.prompt_tokens.matches('a')", "needs a string, this is an int"),
    (f"request.task.matches('{'a' * 501}')", "longer than 500 characters"),
    ("matches(request.task)", "takes two arguments, not 1"),
    ("budget.spent > 5 EUR && budget.spent > 5 USD", "counts in EUR, this amount is in USD"),
    ("budget.spent > 5 USD/day", "no `/day`"),
    ("budget.spent > 5USD", "write a space in between: 5 USD"),
    ("budget.spent > 400ms", "cannot compare a double \\(money\\) with a duration"),
    ("device.cpu_load > 5 USD", "cannot compare a double \\(share\\) with an amount of money"),
    ("device.memory_available_mb > 5 USD", "an amount of money compares with a price or a budget"),
    ("edge.predicted_ttft_ms > budget.spent", "the left is ms, the right is an amount of money".replace("is an", "an")),
    ("edge.predicted_ttft_ms + budget.spent > 1.0", "does not take a double \\(ms\\) and a double \\(money\\)"),
    ("has(device.cpu_pressure) && device.cpu_pressure > device.cpu_load", "a percentage, the right a share"),
    ("edge.predicted_ttft_ms / 1000.0 > 2s", "cannot compare a double with a duration"),
    ("5 USD * 2 > 1 USD", "does not take an amount of money and an int"),
    ("request.tenant?.size > 1", "optional values of CEL"),
    ("[?request.tenant] == []", "optional values of CEL"),
    ("request.`task` == 'a'", "backticks"),
    (".request.task == 'a'", "leading dot"),
    ("math.greatest(1, 2) > 1", "extension function math.greatest"),
    ("strings.quote('a') == 'a'", "extension function strings.quote"),
    ("optional.of(1) == optional.none()", "extension function optional.of"),
    ("cel.bind(x, 1, x > 0)", "extension function cel.bind"),
    ("math > 1", "extension library `math`"),
    ("request.task.lowerAscii() == 'a'", "extension function lowerAscii"),
    ("request.task.replace('a', 'b') == 'a'", "extension function replace"),
    ("type(request.task) == string", "type\\(\\) of CEL"),
    ("request.task == string", "`string` names a type of CEL"),
    ("int(request.task) > 1", "int\\(\\) of CEL"),
    ("uint(1) > 1", "uint\\(\\) of CEL"),
    ("string(1) == 'a'", "string\\(\\) of CEL"),
    ("bytes('a') == bytes('b')", "bytes\\(\\) of CEL"),
    ("bool('true')", "bool\\(\\) of CEL"),
    ("dyn(1) == 1", "dyn\\(\\) of CEL"),
    ("request.deadline_ms.getHours() > 1", "getHours\\(\\) of CEL"),
    ("request.tags.all(t, t == 'a')", "macro all"),
    ("request.tags.exists_one(t, t == 'a')", "macro exists_one"),
    ("request.tags.existsOne(i, t, t == 'a')", "macro existsOne"),
    ("request.tags.filter(t, t == 'a') == []", "macro filter"),
    ("request.tags.transformList(i, t, t) == []", "macro transformList"),
    ("Msg{a: 1}.a == 1", "maps and messages"),
    ("google.protobuf.Duration{seconds: 1} == 1s", "maps and messages"),
    ("0x1Fu > 1", "unsigned"),
    ('br"x" == b"x"', "byte strings"),
    ("request.tags == null", "has\\(\\)"),
    ("request.task.uper() == 'A'", "there is no function"),
    ("startsWith(request.task, 'a')", "write text.startsWith"),
    ("has(1)", "has\\(\\) takes the name of a field"),
    ("has(device.batery)", "did you mean `battery`"),
    ("request.prompt_tokens = 1", "write `==`"),
    ("request.has_tools and request.has_schema", "write `&&`"),
    ("not request.has_tools", "write `!`"),
    ("request.has_tools & request.has_schema", "write `&&`"),
    ("// comment", "comments of CEL"),
    ("'open", "does not end"),
    ("'\\q' == 'q'", "escape does not exist"),
    ("(request.has_tools", "the expression ends where `\\)`"),
    ("request.has_tools ? true", "the expression ends where `:`"),
    ("request.", "the expression ends where a name"),
    ("request.has_tools true", "an operator or the end"),
    ("5ps > 4ms", "`ps` is not a unit"),
    ("for == 1", "reserved word"),
    ("@", "has no meaning"),
    ("(" * 40 + "true" + ")" * 40, "nested deeper"),
    ("!" * 40 + "true", "nested deeper"),
    ("1 + " * 120 + "1 == 1", "more than 100 operators"),
    ("objectives.ttft_ms > 1.0", "add `ttft` under `objectives:`"),
]


@pytest.mark.parametrize(("condition", "message"), REFUSED)
def test_what_is_not_in_the_language_is_rejected_by_name(holds, condition, message):
    with pytest.raises(PolicyError, match=message):
        holds(condition)


def test_objectives_are_readable_once_they_are_set(holds):
    head = "objectives: {ttft: 100ms, deadline: 5s, cost: 0.02 USD, tpot: 1ms}\n"
    assert holds("edge.predicted_ttft_ms > objectives.ttft_ms && objectives.deadline_ms == 5s", head=head)
    assert holds("cloud.cost_per_1k_tokens > objectives.cost && objectives.tpot_ms == 1ms", head=head)
    assert holds("objectives.cost == 0.02 USD && objectives.cost <= 0.02 USD", head=head)
    budget = "objectives: {budget: 5 USD/day}\n"
    assert holds("has(budget.left) || budget.spent / objectives.budget < 10%", head=budget)
    with pytest.raises(PolicyError, match="counts in USD, this amount is in EUR"):
        holds("budget.spent > 1 EUR", head=budget)


def test_one_policy_counts_in_one_currency_across_its_rules():
    first = "rules:\n  - exclude: edge\n    when: budget.spent > 1 USD\n"
    second = "  - exclude: cloud\n    when: budget.spent > 2 EUR\n"
    with pytest.raises(PolicyError, match="counts in USD, this amount is in EUR") as caught:
        parse_policy("version: 1\nname: money\n" + first + second)
    assert (caught.value.line, caught.value.column) == (7, 26)


@pytest.mark.parametrize(
    ("condition", "out"),
    [
        ("1 / (request.prompt_tokens - 10) > 0 && request.max_tokens > 1000", False),
        ("request.max_tokens > 1000 && 1 / (request.prompt_tokens - 10) > 0", False),
        ("!(1 / (request.prompt_tokens - 10) > 0 || request.max_tokens > 1)", False),
        ("1 / (request.prompt_tokens - 10) > 0 || request.max_tokens > 1", True),
        ("1 / (request.prompt_tokens - 10) > 0 && request.max_tokens > 1", True),
        ("(1 / (request.prompt_tokens - 10) > 0 || false) ? true : false", True),
        ("(1 / (request.prompt_tokens - 10) > 0 && true) || (request.max_tokens > 1000 && true)", True),
    ],
)
def test_one_side_of_and_and_or_decides_where_the_other_fails_as_in_cel(holds, condition, out):
    assert holds(condition) is out


def test_a_soft_rule_whose_one_side_fails_matches_where_the_other_decides(signals, request_):
    text = "version: 1\nname: soft\nrules:\n  - prefer: [cloud, edge]\n    when: 1 / (request.prompt_tokens - 10) > 0 "
    assert parse_policy(text + "|| request.max_tokens > 1\n").decide(request_, signals).order == ("cloud", "edge")
    assert parse_policy(text + "&& request.max_tokens > 1\n").decide(request_, signals).rule == "default"


def test_a_text_that_no_pattern_can_read_fails_closed(holds):
    assert holds("request.task.matches('a')", request={"task": "\ud800"})
    assert holds("!request.task.matches('a')", request={"task": "\ud800"})
