"""Every error of a file is reported at once, with its position, in every style of YAML."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.request import Location
from hybrid_llm.policies import load_policy, parse_policy
from tests.policies.test_properties import SETTINGS

HEAD = "version: 1\nname: test\n"


def faults_of(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, path="clinic.yaml")
    return [(error.line, error.column, str(error)) for error in caught.value.errors]


def shown_at(text: str, line: int, column: int) -> str:
    return text.split("\n")[line - 1][column - 1 :]


STYLES = {
    "plain": "    when: request.task == 'ä' && request.wrong > 1\n",
    "plain over lines": "    when: request.task == 'ä'\n\n      &&   request.wrong\n      > 1\n",
    "single": "    when: 'request.task == \"it''s\" && request.wrong > 1'\n",
    "single over lines": "    when: 'request.task == ''x''\n\n       && request.wrong > 1'\n",
    "double": '    when: "request.task == \\"\\x41\\u00e9\\" && request.wrong > 1"\n',
    "double over lines": '    when: "request.task == \\"x\\" \\\n      && request.\\\n      wrong > 1"\n',
    "literal": "    when: |\n      request.task == 'x'\n      && request.wrong > 1\n",
    "literal keep": "    when: |2+\n      request.task == 'x'\n\n        && request.wrong > 1\n\n",
    "folded": "    when: >\n      request.task == 'x'\n\n      && request.wrong\n      > 1\n",
    "folded strip": "    when: >-  # comment\n      request.task == 'x'\n          && request.wrong\n      > 1\n",
    "flow": '    {when: "request.wrong > 1", because: x}\n',
}


@pytest.mark.parametrize("style", STYLES)
def test_the_place_is_right_in_every_scalar_style(style):
    rule = STYLES[style]
    lines = (
        f"rules:\n  - exclude: edge\n{rule}"
        if style != "flow"
        else 'rules:\n  - {exclude: edge, when: "request.wrong > 1"}\n'
    )
    text = HEAD + lines
    ((line, column, report),) = faults_of(text)
    assert shown_at(text, line, column).startswith("wrong")
    assert report.startswith(f"clinic.yaml:{line}:{column}: `request` has no field `wrong`")
    source, caret = report.split("\n")[1:3]
    assert source[caret.index("^") :].startswith("wrong")


def test_carriage_returns_and_a_byte_order_mark_do_not_move_places():
    text = "\ufeff" + (HEAD + "rules:\n  - exclude: edge\n    when: request.wrong > 1\n").replace("\n", "\r\n")
    ((line, column, _),) = faults_of(text)
    assert (line, shown_at(text, line, column)[:5]) == (5, "wrong")


CASES = [
    (HEAD.replace("1", "2"), (1, 10), "version 1"),
    (HEAD.replace("1", '"1"'), (1, 10), "version 1"),
    ("name: test\n", (1, 1), "`version` is missing"),
    ("version: 1\n", (1, 1), "`name` is missing"),
    ("version: 1\nname: no\n", (2, 7), 'in quotes: "no"'),
    ("version: 1\nname: 1:30\n", (2, 7), "in quotes"),
    ("version: 1\nname: 0x1F\n", (2, 7), "in quotes"),
    ("version: 1\nname:\n", (2, 6), "the value is missing"),
    ("version: 1\nname: [a]\n", (2, 7), "a list"),
    ("- 1\n", (1, 1), "policy must be a mapping"),
    (HEAD + "rulez: []\n", (3, 1), "did you mean `rules`"),
    (HEAD + "name: twice\n", (3, 1), "the first is on line 2"),
    (HEAD + "tags: &a {}\n", (3, 7), "anchors and aliases"),
    (HEAD + "tags: !x {}\n", (3, 7), "YAML tags"),
    ("%YAML 1.2\n---\n" + HEAD, (1, 1), "directives"),
    (HEAD + "---\nversion: 1\n", (3, 1), "another document"),
    (HEAD + "tags: [phi]\n", (3, 7), "`tags` must be a mapping"),
    (HEAD + "tags: {phi: {}}\n", (3, 8), "`allow` is missing"),
    (HEAD + "tags: {phi: {allow: edge}}\n", (3, 21), "brackets"),
    (HEAD + "tags: {phi: {allow: [edgy]}}\n", (3, 22), "did you mean `edge`"),
    (HEAD + "tags: {phi: {allow: [edge, edge]}}\n", (3, 28), "twice"),
    (HEAD + "tags: {on: {allow: [edge]}}\n", (3, 8), "in quotes"),
    (HEAD + "tags: {phi: {allow: [edge], detect: [emial]}}\n", (3, 38), "did you mean `email`"),
    (HEAD + "tags: {phi: {allow: [edge, cloud], to_cloud: pseudonymise}}\n", (3, 46), "has no `detect`"),
    (HEAD + "tags: {phi: {allow: [edge], to_cloud: pseudonymise, detect: [email]}}\n", (3, 39), "never goes"),
    (HEAD + "tags: {phi: {allow: [edge, cloud], to_cloud: hide, detect: [email]}}\n", (3, 46), "is not `pseudonymise`"),
    (HEAD + "tags: {phi: {allow: [edge], cache: [cloud]}}\n", (3, 36), "where the request may go unchanged: edge"),
    (HEAD + "objectives: {budget: 5 USD}\n", (3, 22), "for each day, such as 5 USD/day"),
    (HEAD + "objectives: {cost: 1 USD, budget: 5 EUR/day}\n", (3, 35), "two currencies"),
    (HEAD + "objectives: {ttft: 400}\n", (3, 20), "400ms"),
    (HEAD + "objectives: {ttft: 0ms}\n", (3, 20), "more than 0"),
    (HEAD + "objectives: {deadline: 25h}\n", (3, 24), "`25h` is more than 24h"),
    (HEAD + "objectives: {deadline: 500us}\n", (3, 24), "`500us` is less than 1ms"),
    (HEAD + "objectives: {cost: 5}\n", (3, 20), "0.02 USD"),
    (HEAD + "resilience: {retries: 1:30}\n", (3, 23), "ambiguous in YAML"),
    (HEAD + "resilience: {retries: 11}\n", (3, 23), "from 0 to 10"),
    (HEAD + "resilience: {retries: '1'}\n", (3, 23), "without quotes"),
    (HEAD + "resilience: {continue_streams: yes}\n", (3, 32), "write true"),
    (HEAD + "resilience: {retry_on: [5]}\n", (3, 14), "not available in this version"),
    (HEAD + "resilience: {hedge_after: p5}\n", (3, 27), "is not a duration"),
    (HEAD + "resilience: {continue_streams: 1}\n", (3, 32), "is not true or false"),
    (HEAD + "resilience: {retry_budget: 0.1}\n", (3, 28), "10%"),
    (HEAD + "resilience: {retry_budget: 101%}\n", (3, 28), "more than 100%"),
    (HEAD + "resilience: {breaker: {open: soon}}\n", (3, 30), "a duration"),
    (HEAD + "rules: {}\n", (3, 8), "must be a list"),
    (HEAD + "rules: [{when: 'true'}]\n", (3, 9), "one of exclude, prefer and rank"),
    (HEAD + "rules: [{exclude: edge, prefer: edge}]\n", (3, 9), "are exclude and prefer"),
    (HEAD + "rules: [{exclude: egde}]\n", (3, 19), "did you mean `edge`"),
    (HEAD + "rules: [{prefer: []}]\n", (3, 18), "must have at least 1 item"),
    (HEAD + "rules: [{rank: {}}]\n", (3, 16), "needs weights"),
    (HEAD + "rules: [{rank: {speed: 1}}]\n", (3, 17), "no key `speed`"),
    (HEAD + "rules: [{rank: {quality: -1}}]\n", (3, 26), "at least 0"),
    (HEAD + "rules: [{rank: {cost: 0}}]\n", (3, 16), "more than 0"),
    (HEAD + "rules: [{rank: {cost: -1}}]\n", (3, 23), "at least 0"),
    (HEAD + "rules: [{prefer: edge}, {prefer: cloud}]\n", (3, 25), "never reached: rules[0]"),
    (HEAD + "rules: [{prefer: edge, when: '1 < 2'}, {rank: {cost: 1}}]\n", (3, 40), "never reached"),
    (HEAD + "rules: [{exclude: edge, when: ''}]\n", (3, 31), "empty"),
    (HEAD + "rules:\n  - exclude: edge\n    when: !device.charging\n", (5, 11), "quotes"),
    (HEAD + "rules:\n  - exclude: edge\n    when: a ? b : c\n", (5, 17), "single quotes"),
    (HEAD + "rules:\n  - exclude: edge\n    when: [1]\n", (5, 11), "a condition"),
    ("", (1, 1), "empty"),
    ("[" * 3000, (1, 40), "deep"),
    ("x: \x00", (1, 4), "not YAML"),
    ('x: "\\UFFFFFFFF"', (1, 1), "not a character"),
    ("a" * 300_000, (1, 1), "not read"),
]


@pytest.mark.parametrize(("text", "place", "message"), CASES, ids=lambda value: str(value)[-40:])
def test_a_fault_is_reported_with_its_position(text, place, message):
    line, column, report = next(fault for fault in faults_of(text) if message in fault[2])
    assert (line, column) == place, report


def test_all_faults_of_a_file_are_reported_at_once_in_the_order_of_the_text():
    text = (
        HEAD
        + "tags: {phi: {allow: [edgy]}}\nrules:\n  - exclude: egde\n    when: request.a > 1 && request.b > 1\n  - {}\n"
    )
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, path="p.yaml")
    error = caught.value
    assert [(one.line, one.column) for one in error.errors] == [(3, 22), (5, 14), (6, 19), (6, 36), (7, 5)]
    assert (error.line, error.column, error.path) == (3, 22, "p.yaml")
    assert str(error).count("p.yaml:") == 5
    assert "5 errors; the policy is rejected" in str(error)


def test_a_place_behind_tabs_and_wide_characters_has_its_caret_under_it():
    text = HEAD + "rules:\n  - exclude: edge\n    when: request.task == '病历' && request.wrong > 1\n"
    ((_, _, report),) = faults_of(text)
    source, caret = report.split("\n")[1:3]
    wide = sum(2 if ord(char) > 0x2E80 else 1 for char in source[: source.index("wrong")])
    assert caret.index("^") == wide


def test_a_file_that_is_not_there_or_not_text_is_a_policy_error(tmp_path):
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"version: \xff")
    with pytest.raises(PolicyError, match="UTF-8"):
        load_policy(tmp_path / "bad.yaml")


def test_a_backend_cannot_take_the_name_of_a_signal():
    with pytest.raises(ConfigError, match="device"):
        parse_policy(HEAD, backends={"device": Location.EDGE})
    with pytest.raises(ConfigError, match="cannot run on"):
        parse_policy(HEAD, backends={"edge": Location.CLOUD})


def test_detectors_are_those_that_the_caller_has():
    text = HEAD + "tags: {phi: {allow: [edge], detect: [names]}}\n"
    assert parse_policy(text, detectors=frozenset({"names"})).tags["phi"].detect == ("names",)
    with pytest.raises(PolicyError, match="is not a detector"):
        parse_policy(text)


WORDS = st.text(alphabet="ab\t zé病历😀ß-_", min_size=0, max_size=6).map(lambda word: f'request.task != "{word}"')
PARTS = st.one_of(
    WORDS, st.sampled_from(["request.max_tokens > 1", "(network.online || edge.ready)", "edge.queue < 0x1F"])
)


def broken_at_spaces(draw: st.DrawFn, text: str, newline: str) -> str:
    """Some of the spaces that stand outside the texts become line breaks, which fold to a space again."""
    pieces, inside = [], False
    for char in text:
        inside ^= char == '"'
        pieces.append(newline if char == " " and not inside and not draw(st.integers(0, 3)) else char)
    return "".join(pieces)


def escaped(draw: st.DrawFn, text: str) -> str:
    """For double quotes: what must be escaped, and some of what may be."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif ord(char) > 127 and draw(st.booleans()):
            out.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
        else:
            out.append(char)
    return "".join(out)


@st.composite
def written(draw: st.DrawFn) -> str:
    """A policy with one wrong name, its condition in any style of YAML."""
    before = draw(st.lists(PARTS, max_size=3))
    after = draw(st.lists(PARTS, max_size=2))
    space = draw(st.sampled_from([" ", "  "]))
    condition = f"{space}&&{space}".join([*before, "request.wrong > 1", *after])
    deep = "\n" + " " * draw(st.integers(6, 9))
    style = draw(st.sampled_from(["plain", "single", "double", "|", ">", "|-", ">+", "flow"]))
    if style == "plain":
        plain = condition.replace("  ", " ").replace("\t", "t")  # a plain text ends at a tab
        value = broken_at_spaces(draw, plain, deep)
    elif style == "single":
        value = f"'{broken_at_spaces(draw, condition, deep)}'"
    elif style == "double":
        value = f'"{broken_at_spaces(draw, escaped(draw, condition).replace(chr(92) + chr(34), "¤"), deep)}"'
        value = value.replace("¤", chr(92) + chr(34))
    elif style == "flow":
        rule = f"  - {{exclude: edge, when: '{condition}', because: \"病\"}}\n"
        return f"{HEAD}rules:\n{rule}"
    else:
        comment = draw(st.sampled_from(["", "  # 说明"]))
        body = broken_at_spaces(draw, condition, "\n      ").replace("\n", "\n" + "\n" * draw(st.integers(0, 1)))
        value = f"{style}{comment}\n      {body}\n"
    return f"{HEAD}rules:\n  - exclude: edge\n    when: {value}\n    because: 病\n"


@SETTINGS
@given(written(), st.booleans(), st.booleans())
def test_the_place_is_right_whatever_the_style_and_the_line_ends(text, windows, marked):
    text = text.replace("\n", "\r\n") if windows else text
    text = "\ufeff" + text if marked else text
    ((line, column, report),) = faults_of(text)
    assert "no field `wrong`" in report
    assert shown_at(text, line, column).startswith("wrong"), text


def test_a_policy_is_loaded_by_a_path_as_text_too(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\nname: p\ntags: {t: {allow: [edge]}}\n")
    assert load_policy(str(path)).digest == load_policy(path).digest
