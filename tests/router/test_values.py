"""A value that was found once is found again in any other spelling, whole or as the beginning of an answer."""

from __future__ import annotations

import base64
import json

import pytest

from hybrid_llm.router.privacy.detectors import Finding, prepare
from hybrid_llm.router.privacy.pseudonyms import PseudonymTable
from hybrid_llm.router.privacy.restore import Restorer

EMAIL, PASSPORT, BIRTH = "Jane.Doe@Example.org", "511 073 750", "1970-12-01"
KNOWN = {
    "email": EMAIL,
    "passport": PASSPORT,
    "date_of_birth": BIRTH,
    "medical_record": "MRN-0048213",
    "us_ssn": "078-05-1120",
    "credential": "Sesame!Open9",
    "iban": "DE89 3704 0044 0532 0130 00",
    "payment_card": "4111 1111 1111 1111",
    "phone": "+49 30 1234567",
}


def table_of(*found: tuple[str, str]) -> PseudonymTable:
    table = PseudonymTable(b"k" * 32)
    values = [value for _, value in found]
    table.replace_all(prepare(values), [[Finding(kind=kind, start=0, end=len(value))] for kind, value in found])
    return table


def replace(table: PseudonymTable, text: str) -> str:
    """The text as it is sent; it comes back exactly."""
    (written,) = table.replace_all(prepare([text]), [[]])
    one = Restorer(table)
    assert one.feed(written) + one.finish() == text
    return written


RESPELLED = [
    ("passport", "511-073-750"),
    ("passport", "511073750"),
    ("passport", "５１１０７３７５０"),
    ("passport", "511.073/750"),
    ("passport", "5 1 1 0 7 3 7 5 0"),
    ("medical_record", "mrn 0048213"),
    ("medical_record", "MRN0048213"),
    ("us_ssn", "078.05.1120"),
    ("us_ssn", "078 05 1120"),
    ("us_ssn", "078051120"),
    ("credential", "SESAME!OPEN9"),
    ("credential", "sesame\\!open9"),
    ("credential", "Sesame&#33;Open9"),
    ("credential", "Sesame%21Open9"),
    ("email", "jane.doe@example.org"),
    ("email", "JANE.DOE@EXAMPLE.ORG"),
    ("email", "jane.doe%40example.org"),
    ("email", "jane.doe&#64;example.org"),
    ("email", "jane\\.doe\\@example\\.org"),
    ("email", "jane.doe\\u0040example.org"),
    ("email", base64.b64encode(b"jane.doe@example.org").decode()),
    ("email", base64.b64encode(b"my address is jane.doe@example.org, bye").decode()),
    ("email", b"jane.doe@example.org".hex()),
    ("iban", "DE89370400440532013000"),
    ("iban", "de89-3704-0044-0532-0130-00"),
    ("iban", "DE89 3704 0044\n0532 0130 00"),
    ("payment_card", "4111-1111-1111-1111"),
    ("payment_card", "411111 11111 11111"),
    ("phone", "030 1234567"),
    ("phone", "(030) 123-4567"),
    ("phone", "0049 30 1234567"),
    ("phone", "+49 (0)30 123 45 67"),
    ("phone", "49301234567"),
    ("date_of_birth", "1 Dec 1970"),
    ("date_of_birth", "December 1st, 1970"),
    ("date_of_birth", "December 1st 1970"),
    ("date_of_birth", "01/12/1970"),
    ("date_of_birth", "12/1/70"),
    ("date_of_birth", "1.12.1970"),
    ("date_of_birth", "01-Dec-1970"),
    ("date_of_birth", "19701201"),
    ("date_of_birth", "1970年12月1日"),
]


@pytest.mark.parametrize(("kind", "spelling"), RESPELLED)
def test_a_value_found_once_is_replaced_in_another_spelling(kind, spelling):
    table = table_of((kind, KNOWN[kind]))
    written = replace(table, f"so it is {spelling}, thanks")
    assert written.startswith("so it is ")
    assert written.endswith(", thanks")
    assert len(written.split()) == 5, written


@pytest.mark.parametrize(
    ("found", "spelling"),
    [
        ("(415) 555-0123", "+1 415.555.0123"),
        ("415-555-0123", "14155550123"),
        ("+1 415 555 0123 ext. 12", "415 555 0123"),
        ("+44 20 7946 0958", "020 7946 0958"),
        ("020 7946 0958", "+44 20 7946 0958"),
    ],
)
def test_a_telephone_number_is_known_with_and_without_its_country(found, spelling):
    assert replace(table_of(("phone", found)), f"dial {spelling} now").startswith("dial PHONE_")


def test_every_spelling_in_one_text_has_its_own_pseudonym():
    table = table_of(("passport", PASSPORT))
    written = replace(table, "511-073-750, 511073750, 511 073 750 and 511-073-750")
    names = [word.strip(",") for word in written.split() if word.startswith("PASSPORT_")]
    assert (len(names), len(set(names))) == (4, 3)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("credential", "1234", "page 12-34, 91234 has 12 34"),
        ("person_name", "May", "you may go, mayor"),
        ("person_name", "Will", "he will do"),
        ("passport", "511073750", "9511 0737 501"),
        ("date_of_birth", "1970-12-01", "1971-12-01, 70 and 12 and version 1.12.19705"),
        ("email", "a.b@c.org", "abc.org"),
    ],
)
def test_what_only_resembles_a_value_stays(kind, value, text):
    spared = text.replace("91234", "9") if kind == "credential" else text
    assert replace(table_of((kind, value)), spared) == spared


@pytest.mark.parametrize("spelling", ["MAY", "May"])
def test_a_short_name_is_known_in_capitals(spelling):
    assert replace(table_of(("person_name", "May")), f"is {spelling} here?").startswith("is PERSONNAME_")


def test_a_tool_result_in_json_is_searched_through_its_escapes():
    table = table_of(("email", EMAIL))
    assert "xample" not in replace(table, json.dumps({"mail": "jane.doe\u200b@example.org"}))


BROKEN = [
    "Mail to jane.doe@exam",
    "Mail to J",
    "jane\\_d",
    "Mail to jane.doe%4",
    "jane.doe%40ex",
    "jane.doe\\u00",
    "jane.doe&#6",
    "mail jane dot doe at exam",
    "mail jane dot do",
    "code " + base64.b64encode(b"jane.doe@example.org").decode()[:9],
    "code " + base64.b64encode(b"x jane.doe@example.org").decode()[:9],
    "code " + base64.b64encode(b"xy jane.doe@example.org").decode()[:10],
    "4111-1111-1",
    "41111",
    "DE89-37",
    "de8937040",
    "078.05",
    "07805",
    "call 030 12",
    "call 0",
    "call +49 (0)3",
    "call 0049",
    "511-07",
    "born 1 Dec",
    "born December",
    "born on December 1st, 19",
    "born 12/1",
    "born 01.12.19",
    "born 197012",
    "the password is SESAM",
]


@pytest.mark.parametrize("text", BROKEN)
def test_an_answer_that_breaks_off_within_a_value_in_any_spelling_is_noticed(text):
    assert table_of(*KNOWN.items()).begins_value(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "This is the end.",
        "Hello world. ",
        "OK!",
        "I may",
        "the thing",
        "It is for you",
        "growth of 9 %",
        "section 6.",
        "see https://x.test/a?b=",
        "done.\n\n",
        "x = (",
        "rock &",
        "you march",
        "**bold**",
        EMAIL,
    ],
)
def test_an_ordinary_end_of_an_answer_is_not_taken_for_a_value(text):
    assert not table_of(*KNOWN.items()).begins_value(text)
