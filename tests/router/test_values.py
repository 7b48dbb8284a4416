"""A value that was found once is found again in any other spelling, whole or as the beginning of an answer."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hybrid_llm.core import looks
from hybrid_llm.router.privacy.detectors import Finding, prepare
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable
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


AFTER = [Finding(kind="person", start=15, end=19)]
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
    assert replace(table_of(("phone", found)), f"dial {spelling} now").startswith("dial TEL_")


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
        "section 4.",
        "row 4, ",
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


@pytest.mark.parametrize("code", ["%6", "%4", "&#x6", "&#10", "\\x6", "\\u006", "\\u004"])
def test_a_cut_code_that_may_be_the_first_character_of_a_value_is_noticed(code):
    assert table_of(("email", EMAIL)).begins_value(f"Mail to {code}")
    assert not table_of(("email", "user@example.org")).begins_value(f"Mail to {code}"), "u is 75 in base 16, U is 55"


@pytest.mark.parametrize("before", ["", "x_", "id_", "ab/", "a-b_c/", "abcd/"])
@pytest.mark.parametrize("length", [5, 9, 14])
def test_a_cut_run_of_base64_is_noticed_behind_whatever_reads_like_a_part_of_it(before, length):
    run = base64.b64encode(EMAIL.encode()).decode()
    assert table_of(("email", EMAIL)).begins_value(f"see {before}{run[:length]}")


def test_a_cut_run_of_base64_that_holds_a_whole_value_is_noticed():
    run = base64.b64encode(f"it is {EMAIL}, as you know".encode()).decode()
    for cut in range(37, len(run)):
        assert table_of(("email", EMAIL)).begins_value(f"code {run[:cut]}"), cut


@pytest.mark.parametrize("value", ["hunter2", "C01X0006", "4711-22-93", "a@b.co", "Jane"])
def test_an_answer_that_ends_with_a_whole_value_does_not_break_off_within_one(value):
    table = table_of(("credential", value))
    assert not table.begins_value(f"it is {value}")
    assert table.begins_value(f"it is {value[:-1]}")


@pytest.mark.parametrize("text", ["C:\\{}", "x\\t{}", "&amp{}"])
def test_a_value_is_found_as_it_stands_also_where_its_first_letter_may_belong_to_a_code(text):
    for value in ("nick.doe@example.org", "lance.doe@example.org"):
        assert value[1:] not in replace(table_of(("email", value)), text.format(value))


# --- properties -------------------------------------------------------------------------------------------------------

EXAMPLES = int(os.environ.get("HYBRID_TESTS_EXAMPLES", "150"))
WORDS = st.text("abcdefghjkmnopqrstuvwxyzABCDEFGHJ", min_size=3, max_size=8)
DIGITS = st.text("0123456789", min_size=9, max_size=16).filter(lambda digits: len(set(digits)) > 3)
EMAILS = st.builds("{}.{}@{}.org".format, WORDS, WORDS, WORDS)
NUMBERS = st.one_of(DIGITS, st.builds("{}{}".format, st.text("ABCDEFGHKL", min_size=1, max_size=3), DIGITS))
SEPARATORS = st.sampled_from([" ", "-", ".", "/", "_", "**", "\\-", ") ", "\u2011", "\u00a0"])
FULL_WIDTH = {code: code + 0xFEE0 for code in range(ord("0"), ord("9") + 1)}
ESCAPES = [
    lambda char: f"%{ord(char):02X}",
    lambda char: f"&#{ord(char)};",
    lambda char: f"&#x{ord(char):x};",
    lambda char: f"\\u{ord(char):04x}",
    lambda char: f"\\{char}" if not char.isalnum() else char,
    lambda char: char,
]


@st.composite
def spelled(draw: st.DrawFn) -> tuple[str, str, str]:
    """The kind of a value, the value, and another spelling of it."""
    kind, values = draw(st.sampled_from([("email", EMAILS), ("passport", NUMBERS), ("credential", EMAILS)]))
    value = draw(values)
    spelling = draw(st.sampled_from([value, value.upper(), value.lower(), value.swapcase()]))
    if kind == "passport" and draw(st.booleans()):
        cuts = draw(st.sets(st.integers(1, len(spelling) - 1), max_size=4))
        sign = draw(SEPARATORS)
        spelling = "".join((sign if at in cuts else "") + char for at, char in enumerate(spelling))
        return kind, value, spelling.translate(FULL_WIDTH) if draw(st.booleans()) else spelling
    if draw(st.integers(0, 3)) == 0:
        return kind, value, base64.b64encode(f"it is {spelling} now".encode()).decode()
    escaped = draw(st.sampled_from(ESCAPES))
    which = draw(st.sets(st.integers(0, len(spelling) - 1), max_size=5))
    return kind, value, "".join(escaped(char) if at in which else char for at, char in enumerate(spelling))


@settings(max_examples=EXAMPLES, deadline=None)
@given(spelled())
def test_no_spelling_of_a_known_value_is_sent_and_each_comes_back(case):
    kind, value, spelling = case
    written = replace(table_of((kind, value)), f"before {spelling} behind")
    assert re.fullmatch(r"before [A-Z]+_[A-Z2-7]{5}[\s\W]? behind", written), written


@settings(max_examples=EXAMPLES, deadline=None)
@given(spelled(), st.data())
def test_wherever_an_answer_is_cut_within_a_spelling_it_is_noticed(case, data):
    kind, value, spelling = case
    is_encoded = spelling.startswith("aXQgaXMg")  # "it is " before the value, " now" behind it
    cut = data.draw(st.integers(12, len(spelling) - 9) if is_encoded else st.integers(1, len(spelling) - 1))
    text = f"so it is {spelling[:cut]}"
    assume(not re.fullmatch(r"%|&(?:#x?)?|\\(?:u0{0,2})?|\d[\W_]+", spelling[:cut]))  # this says nothing
    assert table_of((kind, value)).begins_value(text), text


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dates(dt.date(1901, 1, 1), dt.date(2019, 12, 31)), st.data())
def test_a_date_of_birth_is_known_in_any_notation_whole_or_cut(date, data):
    notations = [
        "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%y", "%d %b %Y", "%B %d, %Y", "%d-%b-%Y", "%Y%m%d", "%d. %B %Y",
        "%b %d %Y",
    ]  # fmt: skip
    known, other = (date.strftime(data.draw(st.sampled_from(notations))) for _ in range(2))
    table = table_of(("date_of_birth", known))
    assert re.fullmatch(r"on DATEOFBIRTH_\w{5}\.", replace(table, f"on {other}."))
    cut = data.draw(st.integers(1, len(other) - 1))
    assume(other[:cut] not in known or cut > 1)
    whole = [year for year in (f"{date:%Y}", f"{date:%y}") if other[:cut].endswith(year)]
    assume(not (whole and cut >= 6))  # it ends with a whole date in two digits already
    assert table.begins_value(f"born on {other[:cut]}")


# --- work -------------------------------------------------------------------------------------------------------------


def records(count: int) -> tuple[str, list[Finding]]:
    lines = [f"user{number:06d}@mail.example.org, 555{number:06d}\n" for number in range(count)]
    starts = itertools.accumulate(map(len, lines), initial=0)
    found = [
        Finding(kind=kind, start=at + begin, end=at + begin + length)
        for at, _ in zip(starts, lines, strict=False)
        for kind, begin, length in (("email", 0, 27), ("phone", 29, 9))
    ]
    return "".join(lines), found


def calls(work: Callable[[], object]) -> int:
    """How many functions are called, in Python and in C: a measure of work that no other process changes."""
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_the_work_grows_with_the_text_and_not_with_its_square():
    counts = []
    for size in (200, 1600):
        text, found = records(size)
        prepared = prepare([text])
        counts.append(calls(lambda: PseudonymTable(b"k").replace_all(prepared, [found])))  # noqa: B023
    assert counts[1] < 10 * counts[0]


def test_a_value_more_costs_little_however_many_are_known():
    text, found = records(2000)
    table = PseudonymTable(b"k")
    table.replace_all(prepare([text]), [found])
    short = prepare(["mail user000007@mail.example.org or ann@example.org"])
    assert calls(lambda: table.replace_all(short, [[Finding(kind="email", start=36, end=51)]])) < 3000


@pytest.mark.parametrize("found", [(0, 4), (5, 8), (9, 14), (3, 6), (0, 8)])
def test_a_known_value_that_reaches_beyond_a_finding_is_replaced_whole(found):
    table = table_of(("person", "Jane Doe Smith"))
    start, end = found
    (written,) = table.replace_all(
        prepare(["JANE DOE SMITH came"]), [[Finding(kind="person", start=start, end=end), *AFTER]]
    )
    assert re.fullmatch("PERSON_[A-Z2-7]{5} PERSON_[A-Z2-7]{5}", written)


def test_a_known_value_across_two_findings_is_replaced_whole():
    table = table_of(("person", "Jane Doe Smith"))
    found = [Finding(kind="person", start=0, end=4), Finding(kind="person", start=5, end=14)]
    (written,) = table.replace_all(prepare(["JANE DOE SMITH"]), [found])
    assert re.fullmatch("PERSON_[A-Z2-7]{5}", written)


class Over(Exception):
    """The deadline passed."""


def test_a_deadline_ends_the_work_between_its_pieces():
    text, found = records(2500)
    prepared = prepare([text])

    def work(checks: int) -> None:
        left = iter(range(checks))

        def check() -> None:
            if next(left, None) is None:
                raise Over

        looking = looks.begin(check)
        try:
            with pytest.raises(Over):
                PseudonymTable(b"k").replace_all(prepared, [found])
        finally:
            looks.end(looking)

    whole = calls(lambda: PseudonymTable(b"k").replace_all(prepared, [found]))
    done = [calls(partial(work, checks)) for checks in range(12)]
    assert done[0] < whole / 20
    assert max(after - before for before, after in itertools.pairwise(done)) < whole / 6


def test_a_long_value_is_found_in_every_spelling_and_at_the_end_of_an_answer():
    value = "-".join(f"Ab{number:04x}" for number in range(2000))
    table = table_of(("credential", value))
    assert replace(table, f"key {value.upper()} end") != f"key {value.upper()} end"
    assert table.begins_value("key " + value[:9000])
    assert table.begins_value("key " + value[:9000].lower())
    assert not table.begins_value("key " + value)


def test_values_with_a_common_beginning_are_told_apart():
    values = [f"the-same-beginning-of-every-value-and-then-{number}" for number in range(60)]
    table = table_of(*(("credential", value) for value in values))
    written = replace(table, " ".join(values))
    assert len(set(written.split())) == 60
    assert "same" not in written
    assert table.begins_value("the-same-beginning-of-every-value-and")
    assert table.begins_value("THE SAME BEGINNING OF EVERY VALUE AND THEN")


def test_the_values_of_every_turn_stay_known():
    table, values = PseudonymTable(b"k"), [f"number-{number}-of-many" for number in range(40)]
    for value in values:
        table.replace_all(prepare([value]), [[Finding(kind="credential", start=0, end=len(value))]])
    assert len(set(replace(table, " ".join(values)).split())) == 40
    assert "MANY" not in replace(table, " ".join(values).upper())
