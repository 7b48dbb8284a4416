"""No number, `true`, `false` or `null` of JSON is a name, also in prose: whatever a model for names says, it stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hybrid_llm.core.protocols import Detector, Finding
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import KNOWN_DETECTORS, Policy, parse_policy
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.privacy.detectors.models.rampart import open_rampart
from hybrid_llm.router.privacy.json_tokens import embedded
from tests.router.test_values import calls


def policy(detect: str) -> Policy:
    tag = f"{{allow: [edge, cloud], to_cloud: pseudonymise, detect: [{detect}]}}"
    return parse_policy(f"version: 1\nname: p\ntags: {{pii: {tag}}}\n", detectors=KNOWN_DETECTORS | {"names"})


ALL, NAMES_ALONE = policy("names, phone, payment_card"), policy("names")
PSEUDONYM = re.compile(r"[A-Z]+_[A-Z2-7]{5}")


class Names:
    """A model for names that finds whatever it is told to, in the texts that it is told about."""

    name = "names"
    finds_names = True

    def __init__(self, found: Mapping[str, Sequence[Finding]]) -> None:
        self._found = found

    def find(self, text: str) -> Iterator[Finding]:
        yield from self._found.get(text, ())


def named(text: str, *values: str, kind: str = "location") -> tuple[str, list[Finding]]:
    """*text*, and a finding at the last occurrence of each of *values*."""
    return text, [Finding(kind=kind, start=text.rindex(v), end=text.rindex(v) + len(v)) for v in values]


def sent(*found: tuple[str, Sequence[Finding]], guard: PrivacyGuard | None = None, **options: Any) -> list[str]:
    """The texts with *found* names as the cloud sees them."""
    return shown((guard or PrivacyGuard([Names(dict(found))])), *(text for text, _ in found), **options)


def shown(guard: PrivacyGuard, *texts: str, **options: Any) -> list[str]:
    assessment = assess(guard, *texts, **options)
    assert Location.CLOUD in assessment.allowed, assessment.blocked
    return list(assessment.request_for(Location.CLOUD).visible_text())


def assess(guard: PrivacyGuard, *texts: str, tags: Policy = ALL, **options: Any) -> Assessment:
    return guard.assess(Request(messages=tuple(Message(role="user", content=t) for t in texts), **options), tags)


class Spelled(str):
    """A number, as it is spelled."""

    __slots__ = ()


def parsed(text: str) -> Any:
    return json.loads(text, parse_int=Spelled, parse_float=Spelled, object_pairs_hook=lambda pairs: [*map(list, pairs)])


def shape(value: Any) -> Any:
    """*value* without the text of its strings, also of JSON in strings."""
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "text" if isinstance(value, str) and not isinstance(value, Spelled) else (type(value), value)


WORDS = st.text(st.sampled_from("abeltruns 019é\"\\\n-'日"), max_size=8)
NUMBERS = st.integers(-99999, 99999) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    WORDS | NUMBERS | st.booleans() | st.none(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(WORDS, each, max_size=4),
    max_leaves=10,
)
DOCUMENTS = st.lists(VALUES, max_size=4) | st.dictionaries(WORDS, VALUES, max_size=5)
PROSE = st.text(st.sampled_from("abe 019.,:'-\n日"), max_size=12)
KINDS = st.sampled_from(["person", "location", "organisation", "person_name", "names"])


@st.composite
def found_in(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[str, list[Finding]]:
    text = draw(texts)
    spans = draw(st.lists(st.tuples(st.integers(0, max(0, len(text) - 1)), st.integers(1, 9)), max_size=5))
    return text, [
        Finding(kind=draw(KINDS), start=a, end=min(a + size, len(text))) for a, size in spans if a < len(text)
    ]


@st.composite
def prompts(draw: st.DrawFn) -> str:
    document = json.dumps(draw(DOCUMENTS), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    return draw(PROSE) + document + draw(PROSE)


def json_of(text: str) -> str:
    return text[re.search(r"[\[{]", text).start() : max(text.rfind("]"), text.rfind("}")) + 1]  # type: ignore[union-attr]


@settings(max_examples=200, deadline=None)
@given(prompt=found_in(prompts()), other=found_in(PROSE))
def test_numbers_and_literals_of_json_survive_any_names_also_those_found_in_another_message(prompt, other):
    assessment = assess(PrivacyGuard([Names(dict([other, prompt]))]), other[0], prompt[0], tags=NAMES_ALONE)
    assume(Location.CLOUD in assessment.allowed)
    _, written = assessment.request_for(Location.CLOUD).visible_text()
    assert shape(parsed(json_of(written))) == shape(parsed(json_of(prompt[0])))


@settings(max_examples=20, deadline=None)
@given(
    item=st.sampled_from(["sandwich", "tea", "Paris", "Jane Doe", "null", "12", "usb-c", ""]),
    name=st.sampled_from(["item", "city", "zip", "building", "name", "x1", "id"]),
    number=st.integers(0, 99999) | st.floats(0, 1000, allow_nan=False),
    rest=st.sampled_from([True, False, None, [1, 2, 3], {"kg": 5, "street": 7}]),
    around=st.sampled_from(["{}", "Answer in JSON like {}", "I am Jane Doe, 12 Main Street. Use {} as JSON, please."]),
)
def test_numbers_and_literals_of_json_survive_the_installed_model(model, item, name, number, rest, around):
    text = around.format(json.dumps({name: item, "quantity": number, "more": rest}))
    assessment = assess(PrivacyGuard([model]), text, tags=NAMES_ALONE)
    assume(Location.CLOUD in assessment.allowed)  # the model may find more where a pseudonym stands beside it
    (written,) = assessment.request_for(Location.CLOUD).visible_text()
    assert shape(parsed(json_of(written))) == shape(parsed(json_of(text)))


@pytest.fixture(scope="module")
def model() -> Detector:
    return open_rampart()


@pytest.mark.parametrize(
    "text",
    [
        '{"quantity": 1}',
        'JSON like {"quantity": 1}',
        'JSON like {"item": "tea", "quantity": 1, ...}',
        'JSON like [{"quantity": 1}, {"quantity": 2}, and so on',
        'lines: {"quantity": 12}\n{"quantity": 1}',
        '{"content": "JSON like {\\"quantity\\": 1}, please"}',
        "see [1] and [2]",
    ],
)
def test_a_number_that_is_taken_for_a_place_stays(text):
    assert sent(named(text, "1")) == [text]


@pytest.mark.parametrize("literal", ["true", "false", "null"])
@pytest.mark.parametrize("text", ['{{"note": {}}}', 'like {{"note": {}}}', "note = {} here", '{{"note": "{}"}}'])
def test_a_literal_that_is_taken_for_a_name_stays(text, literal):
    text = text.format(literal)
    assert sent(named(text, literal, kind="person")) == [text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my zip code is 62704", "62704"),
        ("Send it to [12 Main Street]", "12 Main Street"),
        ('{"address": 12 Main Street}', "12 Main Street"),
        ('like {"zip": "62704"}', "62704"),
        ('{"zip": "62704"}', "62704"),
        ("Jennifer Null asks", "Jennifer Null"),
    ],
)
def test_a_place_of_digits_in_words_and_in_a_string_goes_as_a_pseudonym(text, value):
    (written,) = sent(named(text, value))
    assert PSEUDONYM.sub(value, written) == text
    assert value not in written


def test_names_in_strings_and_in_names_of_properties_of_json_in_prose_are_replaced():
    text = 'JSON like {"Jane": "caf\\u00e9 of Jane, \\"x\\"", "n": 1.50e3}'
    (written,) = sent((text, [Finding(kind="person", start=0, end=len(text))]))
    was, now = (parsed(json_of(each)) for each in (text, written))
    assert shape(now) == shape(was)
    assert not any(word in written for word in ("Jane", "caf", "JSON"))
    assert "1.50e3" in written


def test_a_name_does_not_cut_an_escape():
    text = 'JSON like {"to": "Jos\\u00e9 and \\"Al\\""}'
    found = [Finding(kind="person", start=text.index(part), end=text.index(part) + 2) for part in ("0e9", "\\u", '"Al')]
    (written,) = sent((text, found))
    assert parsed(json_of(written))[0][0] == "to"


def test_a_place_of_digits_in_one_message_leaves_numbers_of_json_in_another_and_is_replaced_in_strings_and_prose():
    first, second = (
        "I live at number 12, zip 62704",
        'in 2012: 12 of {"quantity": 12, "zip": 62704, "at": "12, 62704"} x12',
    )
    zipped, house = Finding(kind="location", start=25, end=30), Finding(kind="location", start=17, end=19)
    one, two = sent((first, [house, zipped]), (second, []))
    home, code = PSEUDONYM.findall(one)
    assert two == f'in 2012: {home} of {{"quantity": 12, "zip": 62704, "at": "{home}, {code}"}} x12'


@pytest.mark.parametrize("found", [True, False], ids=["also a place", "not a place"])
def test_a_telephone_number_that_is_a_number_of_json_never_leaves(found):
    documents = ['{"phone": 4155550123, "n": 7}', 'like {"phone": 4155550123, "n": 7}']
    for text in documents:
        (written,) = sent(named(text, *["4155550123", "7"][: 2 * found]))
        assert "4155550123" not in written
        assert '"n": 7}' in written
    assert sent(named(documents[0]))[0].startswith('{"phone": "TEL_')


@pytest.mark.parametrize("turns", [("My zip: 4155550123", "My phone: 4155550123"), ("My phone: 4155550123",)])
def test_a_number_that_was_found_as_a_place_and_as_a_telephone_number_counts_as_the_latter(turns):
    names = Names(dict([named(turns[0], "4155550123")]))
    guard = PrivacyGuard([names])
    for turn in turns:
        shown(guard, turn, session_id="s")
    (written,) = shown(guard, '{"id": 4155550123}', session_id="s")
    guard.close()
    assert "4155550123" not in written
    *_, written = shown(PrivacyGuard([names]), *turns, '{"id": 4155550123}')
    assert "4155550123" not in written


def test_a_place_of_digits_in_a_schema_is_no_reason_to_stay():
    schema = '{"properties": {"zip": {"default": 62704}}}'
    text = "an order"
    guard = PrivacyGuard([Names(dict([named(schema, "62704"), (text, [])]))])
    assert shown(guard, text, output_schema=schema) == [text, schema]


@pytest.mark.parametrize("part", ["[", '{"a":', "[x", '["', "[1,", '{"a" 1 ', '[["a" ', '"['])
def test_the_search_for_json_in_other_text_takes_linear_work(part):
    short, long = (calls(lambda: list(embedded("w " + part * count))) for count in (500, 2000))  # noqa: B023
    assert long < 4.2 * short
