"""Texts that are JSON: with pseudonyms in it, a text is the same JSON, and restores to what it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.request import Location, Message, Request, Sampling, TextForm, Tool
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.privacy.detectors import DETECTORS, Finding, Prepared
from hybrid_llm.router.privacy.json_tokens import decode, read_tokens
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable
from hybrid_llm.router.privacy.restore import Restorer
from hybrid_llm.router.privacy.structured import Structured

POLICY = parse_policy(
    "version: 1\nname: p\n"
    "tags: {pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, phone, payment_card]}}\n"
)
MAIL = "jane.doe@example.org"


def assess(*contents: str, role: str = "user", **options: Any) -> Assessment:
    messages = tuple(Message(role=role, content=content) for content in contents or ("words",))
    return PrivacyGuard().assess(Request(messages=messages, **options), POLICY)


def sent(assessment: Assessment) -> list[str]:
    assert Location.CLOUD in assessment.allowed, assessment.blocked
    return list(assessment.request_for(Location.CLOUD).visible_text())


def replaced(text: str, findings: list[Finding], table: PseudonymTable, form: TextForm = TextForm.CONTENT) -> str:
    one = Structured(text, form)
    (written,) = table.replace_all([Prepared(one.open_form)], [one.clipped(findings)])
    return one.rewritten(written, table)


def restored(text: str, table: PseudonymTable) -> str:
    restorer = Restorer(table, json=True)
    return restorer.feed(text) + restorer.finish()


def spelled(value: Any, random: Random) -> str:
    """*value* as JSON with white space, escapes and numbers spelled in any way."""
    space = random.choice(["", " ", "\n", "\t "])
    if isinstance(value, str):
        return '"' + "".join(escaped(char, random) for char in value) + '"'
    if isinstance(value, int) and not isinstance(value, bool):
        return random.choice([str(value), f"{value}.0", f"{value}e0", f"{value}E+00"])
    if isinstance(value, list):
        return f"[{space}{f'{space},'.join(spelled(each, random) for each in value)}]"
    if isinstance(value, tuple):  # pairs, in which a name may occur twice
        pairs = (f"{spelled(name, random)}{space}:{space}{spelled(each, random)}" for name, each in value)
        return "{" + space + f",{space}".join(pairs) + "}"
    return json.dumps(value)


def escaped(char: str, random: Random) -> str:
    if random.random() < 0.2:
        units = char.encode("utf-16-be", "surrogatepass").hex()
        return "".join(rf"\u{units[i : i + 4]}" for i in range(0, len(units), 4))
    return json.dumps(char, ensure_ascii=False)[1:-1]


def leaves(old: Any, *others: Any) -> Iterator[tuple[Any, ...]]:
    """The strings and numbers of *old* with those of *others* in the same place, also in JSON inside a string."""
    if isinstance(old, list):
        assert all(isinstance(other, list) and len(other) == len(old) for other in others)
        for each in zip(old, *others, strict=True):
            yield from leaves(*each)
        return
    inner = [_inside(each) for each in (old, *others)]
    if None in inner:
        yield (old, *others)
    else:
        yield from leaves(*inner)


def _inside(value: Any) -> Any:
    try:
        return parsed(value) if type(value) is str and value[:1] in ("[", "{") else None
    except ValueError:
        return None


def parsed(text: str) -> Any:
    """Numbers as `Number`, objects as lists of pairs of a `Name` and a value."""

    def listed(pairs: list[tuple[str, Any]]) -> list[list[Any]]:
        return [[Name(name), value] for name, value in pairs]

    return json.loads(text, object_pairs_hook=listed, parse_int=Number, parse_float=Number)


class Name(str):
    """The name of a property."""

    __slots__ = ()


class Number(str):
    """The spelling of a number."""

    __slots__ = ()


LETTERS = st.text(st.sampled_from('abcXYZ019 @.é日😀"\\/\n_-'), max_size=12)
LEAVES = st.one_of(LETTERS, st.integers(-(10**12), 10**12), st.none(), st.booleans())
VALUES = st.recursive(
    LEAVES,
    lambda each: st.lists(each, max_size=4) | st.lists(st.tuples(LETTERS, each), max_size=4).map(tuple),
    max_leaves=12,
)
INSIDE = VALUES.map(lambda value: json.dumps([value] if not isinstance(value, tuple) else [list(map(list, value))]))
"""JSON as a string, which other JSON may hold."""
DOCUMENTS = st.lists(VALUES | INSIDE, min_size=1, max_size=4) | st.lists(
    st.tuples(LETTERS, VALUES | INSIDE), min_size=1, max_size=4
).map(tuple)


@st.composite
def found_in(draw: st.DrawFn) -> tuple[str, list[Finding]]:
    text = spelled(draw(DOCUMENTS), draw(st.randoms(use_true_random=False)))
    spans = draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(1, 12)), max_size=4))
    kinds = st.sampled_from(["email", "phone", "person_name"])
    return text, [Finding(kind=draw(kinds), start=start, end=min(start + size, len(text))) for start, size in spans]


@given(found=found_in())
def test_any_json_with_pseudonyms_for_any_findings_is_the_same_json_and_restores_exactly(found):
    text, findings = found
    table = PseudonymTable()
    one = Structured(text, TextForm.CONTENT)
    values = {one.open_form[each.start : each.end] for each in one.clipped(findings)}
    try:
        written = replaced(text, findings, table)
    except PrivacyViolation:
        reject()
    for old, new, again in leaves(*map(parsed, (text, written, restored(written, table)))):
        assert again == old
        assert isinstance(new, Number) == isinstance(old, Number) or str(new) != old
        if isinstance(new, str):
            rest = re.split(r"[A-Z]+_[A-Z2-7]{5}", new) if new != old else [new]
            assert not any(value in piece for value in values for piece in rest)
    if not values:
        assert written == text


@given(found=found_in())
def test_tokens_in_which_nothing_is_replaced_keep_every_byte(found):
    text, findings = found
    try:
        written = replaced(text, findings, PseudonymTable())
    except PrivacyViolation:
        reject()
    old, new = (read_tokens(each, TextForm.CONTENT) for each in (text, written))
    assert old is not None
    assert new is not None
    assert len(old) == len(new)
    between = [0, *(edge for token in old for edge in token[:2]), len(text)]
    kept = [text[a:b] for a, b in zip(between[::2], between[1::2], strict=True)]
    places = [0, *(edge for token in new for edge in token[:2]), len(written)]
    now = [written[a:b] for a, b in zip(places[::2], places[1::2], strict=True)]
    assert [part.replace('"', "") for part in kept] == [part.replace('"', "") for part in now]
    for was, is_ in zip(old, new, strict=True):
        raw, edited = text[was[0] : was[1]], written[is_[0] : is_[1]]
        assert raw == edited or re.search(r"[A-Z]+_[A-Z2-7]{5}", edited)


@given(value=VALUES, random=st.randoms(use_true_random=False))
def test_every_string_and_number_of_json_is_a_token(value, random):
    text = spelled([value], random)
    tokens = read_tokens(text, TextForm.CONTENT)
    assert tokens is not None
    read = [(decode(text, start, end)[0], is_number) for start, end, is_number, _, _ in tokens]
    both = [each for each, _ in leaves(parsed(text), parsed(text)) if isinstance(each, str)]
    assert read == [(str(each), isinstance(each, Number)) for each in both]


@given(text=st.text(st.sampled_from('{}[]:,"\\u0 1.e-+tfn a'), max_size=12))
def test_what_json_does_not_accept_is_no_json_here(text):
    try:
        json.loads(text, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        assert read_tokens(text, TextForm.SCHEMA) is None
    else:
        assert read_tokens(text, TextForm.SCHEMA) is not None


@given(value=VALUES, random=st.randoms(use_true_random=False), share=st.floats(0, 1))
def test_json_that_breaks_off_anywhere_is_the_beginning_of_json(value, random, share):
    text = spelled([value], random)
    part = text[: int(share * len(text))]
    tokens = read_tokens(part, TextForm.PARTIAL)
    assert tokens is not None
    whole = read_tokens(text, TextForm.PARTIAL) or []
    assert [each[:2] for each in tokens[:-1]] == [each[:2] for each in whole][: max(0, len(tokens) - 1)]


def test_json_of_any_depth_is_read():
    text = "[" * 100_000 + f'"{MAIL}"' + "]" * 100_000
    assert len(read_tokens(text, TextForm.CONTENT) or []) == 1


def test_a_bound_of_a_schema_is_no_private_value():
    schema = '{"type": "integer", "maximum": 17179869184}'
    assessment = assess(output_schema=schema)
    assert assessment.request.privacy == frozenset()
    assert sent(assessment)[1] == schema


BOUNDS = (
    "maximum",
    "minimum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "multipleOf",
    "maxLength",
    "minLength",
    "maxItems",
    "minItems",
    "maxProperties",
    "minProperties",
    "maxContains",
    "minContains",
)


@pytest.mark.parametrize("keyword", BOUNDS)
def test_every_bound_arrives_as_it_is_also_where_the_same_number_is_private_elsewhere(keyword):
    schema = f'{{"title": "phone", "properties": {{"phone": {{"{keyword}": 4155550123}}}}}}'
    text, written = sent(assess("My phone: 4155550123", output_schema=schema))
    assert text.startswith("My phone: TEL_")
    assert written == schema


@pytest.mark.parametrize("keyword", ["const", "default", "x-phone"])
@pytest.mark.parametrize("where", ["schema", "tool"])
def test_a_private_number_in_a_schema_or_a_tool_keeps_the_request_on_the_device(keyword, where):
    schema = f'{{"title": "phone", "{keyword}": 4155550123}}'
    options: dict[str, Any] = (
        {"output_schema": schema} if where == "schema" else {"tools": (Tool(name="f", parameters=schema),)}
    )
    assessment = assess("My phone: 4155550123", **options)
    assert assessment.allowed == {Location.EDGE}
    assert "number" in assessment.blocked[Location.CLOUD]


def test_names_of_properties_have_one_pseudonym_wherever_they_stand():
    schema = {
        "type": "object",
        "properties": {MAIL: {"type": "string", "format": "email"}, "note": {"const": f"to {MAIL}"}},
        "required": [MAIL],
        "dependentRequired": {MAIL: ["note"]},
    }
    _, written = sent(assess(output_schema=json.dumps(schema, indent=1)))
    name = json.loads(written)["required"][0]
    assert name.startswith("EMAIL_")
    assert written == json.dumps(schema, indent=1).replace(MAIL, name)


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "string", "format": "email"}',
        '{"properties": {"type": {"type": ["string", "null"]}, "maximum": {"maximum": 3}}}',
        '{"$schema": "https://json-schema.org/draft/2020-12/schema", "items": {"minLength": 2}}',
    ],
)
def test_the_own_words_of_a_schema_are_never_replaced(schema):
    class Everything:
        name = "email"

        def find(self, text: str) -> Iterator[Finding]:
            yield from (Finding(kind="email", start=each.start(), end=each.end()) for each in re.finditer(r"\w+", text))

    request = Request(messages=(Message(role="user", content=""),), output_schema=schema)
    assessment = PrivacyGuard([Everything()]).assess(request, POLICY)
    written = json.loads(sent(assessment)[1])
    assert json.dumps(keywords(written)) == json.dumps(keywords(json.loads(schema)))
    assert all(name.startswith("EMAIL_") for name in written.get("properties", ())), "these are the app's"


def keywords(schema: Any) -> Any:
    """*schema* without the names that it gives to properties."""
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties")
    rest = {name: keywords(value) for name, value in schema.items() if name != "properties"}
    return rest if properties is None else {**rest, "properties": [keywords(each) for each in properties.values()]}


@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_a_private_number_in_a_message_that_is_json_becomes_a_string(role):
    text = '{"phone": 4155550123, "n": 1.50e3, "at": [4155550123]}'
    (written,) = sent(assess(text, role=role))
    name = json.loads(written)["phone"]
    assert name.startswith("TEL_")
    assert written == text.replace("4155550123", f'"{name}"')


def test_an_escaped_value_has_the_pseudonym_of_the_value_itself():
    plain, escaped_ = "josé@example.org", r"jos\u00e9@ex\u0061mple.org"
    texts = sent(assess(f"Write to {plain}.", f'{{"to": "{escaped_}", "cc": "\\u0041 {plain}"}}'))
    name = texts[0].split()[-1].rstrip(".")
    assert texts[1] == f'{{"to": "{name}", "cc": "\\u0041 {name}"}}'


def test_an_escaped_value_in_a_schema_comes_back_as_the_schema_allows_it():
    schema = r'{"enum": ["jos\u00e9@example.org", "none"]}'
    guard = PrivacyGuard()
    request = Request(messages=(Message(role="user", content="who?"),), output_schema=schema)
    assessment = guard.assess(request, POLICY)
    choice = json.loads(sent(assessment)[1])["enum"][0]
    restorer = guard.restorer(assessment, Location.CLOUD)
    assert restorer is not None
    answer = restorer.restore(Chunk(text=json.dumps(choice), finish_reason=FinishReason.STOP)).text
    assert json.loads(answer) in json.loads(schema)["enum"]


def test_json_inside_a_string_of_json_is_edited_as_json():
    inner = '{"to": "jos\\u00e9@example.org", "phone": 4155550123, "n": 1}'
    text = json.dumps({"arguments": inner, "id": "x"})
    (written,) = sent(assess(text))
    arguments = json.loads(json.loads(written)["arguments"])
    assert arguments["to"].startswith("EMAIL_")
    assert arguments["phone"].startswith("TEL_")
    assert arguments["n"] == 1


def test_json_lines_are_json():
    text = f'{{"to": "{MAIL}"}}\n{{"phone": 4155550123}}\n'
    (written,) = sent(assess(text))
    first, second = map(json.loads, written.splitlines())
    assert first["to"].startswith("EMAIL_")
    assert second["phone"].startswith("TEL_")


@pytest.mark.parametrize(
    "text", [f"[{MAIL}]", f"{{x}} {MAIL}", f'["{MAIL}"', f'{{"a": {MAIL}}}', f'["{MAIL}"] and so on']
)
def test_what_only_begins_like_json_is_text(text):
    (written,) = sent(assess(text))
    assert re.sub(r"EMAIL_[A-Z2-7]{5}", MAIL, written) == text


def test_a_partial_answer_that_follows_a_schema_is_edited_as_json():
    prefix = '{"n": 12, "to": ["jos\\u00e9@example.org", "\\u0041'
    written = sent(assess("words", output_schema='{"type": "object"}', answer_prefix=prefix))[-1]
    assert re.fullmatch(r'\{"n": 12, "to": \["EMAIL_[A-Z2-7]{5}", "\\u0041', written)


def test_a_private_number_in_a_partial_answer_keeps_the_request_on_the_device():
    prefix = '{"phone": 4155550123, "x": "'
    assessment = assess("words", output_schema='{"type": "object"}', answer_prefix=prefix)
    assert assessment.allowed == {Location.EDGE}


def test_a_value_that_reaches_across_tokens_is_replaced_in_each_of_them():
    text = '{"first": "Jane", "last": "Doe-Smith"}'
    table = PseudonymTable()
    start, end = text.index("Jane"), text.index("-Smith")
    written = replaced(text, [Finding(kind="person_name", start=start, end=end)], table)
    assert list(json.loads(written)) != ["first", "last"], "the name between them too"
    assert all(part not in written for part in ("Jane", "last", "Doe"))
    assert restored(written, table) == text


def test_a_schema_that_is_no_json_is_not_edited():
    one = Structured("{maximum: 4155550123}", TextForm.SCHEMA)
    with pytest.raises(PrivacyViolation):
        replaced(one.text, list(DETECTORS["phone"].find("phone 4155550123")), PseudonymTable(), TextForm.SCHEMA)


@given(count=st.integers(0, 3), stops=st.integers(0, 2), schema=st.booleans(), prefix=st.booleans())
def test_every_text_of_a_request_has_a_form(count, stops, schema, prefix):
    request = Request(
        messages=(Message(role="user", content="x"),) * count,
        tools=(Tool(name="f"),) * count,
        output_schema="{}" if schema else None,
        sampling=Sampling(stop=("x",) * stops),
        answer_prefix="{" if prefix else "",
    )
    forms = list(zip(request.visible_text(), request.text_forms(), strict=True))
    assert [text for text, form in forms if form is TextForm.SCHEMA] == ["{}"] * (schema + count)
    assert [text for text, form in forms if form is TextForm.PARTIAL] == ["{"] * (schema and prefix)


def test_a_finding_that_is_only_partly_in_a_bound_counts():
    schema = '{"maximum": 41555, "title": "Jane"}'
    both = Finding(kind="person_name", start=schema.index("41555"), end=schema.index("Jane") + 4)
    assert Structured(schema, TextForm.SCHEMA).private([both]) == (both,)
