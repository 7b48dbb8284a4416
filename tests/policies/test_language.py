"""What expressions mean, seen through a hard rule that takes the device out."""

import math

import pytest

from hybrid_llm.policies import parse_policy
from hybrid_llm.router.errors import PolicyError
from hybrid_llm.router.types import Tool

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
    "-9223372036854775808 < request.prompt_tokens",
    "[1, 2] == [1, 2] && request.prompt_tokens > 0",
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
    assert holds("request.has_tools && request.has_schema", request={"tools": (Tool(name="t"),), "output_schema": "{}"})


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
def test_an_unguarded_read_is_refused_with_the_guard_to_write(holds, condition):
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
    ("duration('1s') > 1s", "write the duration as it is"),
    ("timestamp('x') > 1", "no clock"),
    ("request.task.matches('a+')", "not available in this version"),
    ("request.task.upperAscii() == 'A'", "there is no function"),
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
    ("@", "means nothing"),
    ("(" * 40 + "true" + ")" * 40, "nested deeper"),
    ("!" * 40 + "true", "nested deeper"),
    ("1 + " * 120 + "1 == 1", "more than 100 operators"),
    ("objectives.ttft_ms > 1.0", "add `ttft` under `objectives:`"),
]


@pytest.mark.parametrize(("condition", "message"), REFUSED)
def test_what_is_not_in_the_language_is_refused_by_name(holds, condition, message):
    with pytest.raises(PolicyError, match=message):
        holds(condition)


def test_objectives_are_readable_once_they_are_set(holds):
    head = "objectives: {ttft: 100ms, deadline: 5s, cost: 0.02 USD, tpot: 1ms}\n"
    assert holds("edge.predicted_ttft_ms > objectives.ttft_ms && objectives.deadline_ms == 5s", head=head)
    assert holds("cloud.cost_per_1k_tokens > objectives.cost && objectives.tpot_ms == 1ms", head=head)
