"""A stream gives the same text as the whole, wherever it is cut and however a model spells the pseudonyms."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.router.privacy.detectors import Finding, prepare
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable
from hybrid_llm.router.privacy.restore import Restorer

RUNS = int(os.environ.get("HYBRID_TESTS_CUT_RUNS", "3000"))
KINDS = ["email", "phone", "cn_resident_id", "person"]
VALUES = ["bob@example.org", "+49 30 1234567", '张 "Wei" \\ Zhang\n\t', "EMAIL_QYSAI", "\u2028é"]


def replace(table: PseudonymTable, text: str, findings: list[Finding]) -> str:
    return table.replace_all(prepare([text]), [findings])[0]


def table_of(values: list[str], **options) -> tuple[PseudonymTable, list[str]]:
    table = PseudonymTable(b"k" * 32, **options)
    findings = [[Finding(kind=KINDS[i % 4], start=0, end=len(v))] for i, v in enumerate(values)]
    return table, table.replace_all(prepare(values), findings)


def stream(table: PseudonymTable, pieces: list[str], *, in_json: bool = False) -> str:
    one = Restorer(table, json=in_json)
    out = "".join(one.feed(piece) for piece in pieces) + one.finish()
    assert not one._held
    return out


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


TABLE, NAMES = table_of(VALUES)
EMAIL, PHONE = NAMES[0], NAMES[1]
CODE = EMAIL.partition("_")[2]


INVISIBLE = "[\u00ad\u200b-\u200d\u2060\ufeff]"
VISIBLE = (
    r"(?:[ \t\r\n*_~`\u00a0\u2010-\u2015-]|\\u[0-9a-fA-F]{4}|\\[nrt]|\\(?![nrtu])|&#?[0-9A-Za-z]{1,7};|%[0-9a-fA-F]{2})"
)


def spelled(name: str) -> str:
    """A pattern of all spellings of *name*: type, separator, code, or the code alone as it is."""
    stem, code = name.split("_")
    between, within = f"(?:{INVISIBLE}|[-_])?", f"{INVISIBLE}?"
    separator = f"{INVISIBLE}{{0,2}}{VISIBLE}(?:{INVISIBLE}|{VISIBLE}){{0,5}}"
    alone = "" if code.isalpha() else rf"|(?:(?<![0-9A-Za-z_])|(?<=\\[nrt]))(?-i:{code})(?![0-9A-Za-z_])"
    return f"{between.join(stem)}{separator}{within.join(code)}{alone}"


def expected(text: str, names: list[str] = NAMES, values: list[str] = VALUES) -> str:
    """An independent oracle: one pattern of all spellings over the whole text."""
    pattern = re.compile("|".join(f"({spelled(name)})" for name in names), re.IGNORECASE | re.ASCII)
    return pattern.sub(lambda match: values[match.lastindex - 1], text)


def coded(separator: str):
    return lambda name: name.replace("_", separator)


SPELLINGS = [lambda n: n, str.lower, str.title, lambda n: n[:-1], lambda n: n[:3], lambda n: n + "s", lambda n: n[1:]]
SPELLINGS += [coded(separator) for separator in ("\\_", "\\\\_", " _ ", "-", " ", "\n", "&#95;", "%5F", "\\u005f", "")]
SPELLINGS += [coded(separator) for separator in ("\u200b_", "__", "**_", "&lowbar;", "\\n", " - ", "&", "%5", "\\u")]
SPELLINGS += [lambda n: n.partition("_")[2], lambda n: n.partition("_")[2].lower(), lambda n: f"{n[0]}-{n[1:]}"]
SPELLINGS += [lambda n: n[:-2] + "\u200b" + n[-2:], lambda n: n[:3] + "\u00ad" + n[3:], lambda n: n[0] + "_" + n[1:]]
FILLERS = [
    "",
    " ",
    "_",
    "\\",
    "**",
    "`",
    "[",
    "](x)",
    '"',
    "的",
    "E",
    "em",
    "EMAIL",
    "PERSON_",
    "ID",
    "A",
    "\n",
    "ſ",
    "\ud800",
]


def some_text(rng: random.Random, names: list[str]) -> str:
    parts = []
    for _ in range(rng.randrange(8)):
        parts += [rng.choice(FILLERS), rng.choice(SPELLINGS)(rng.choice(names)), rng.choice(FILLERS)]
    return "".join(parts)


def test_random_cuts_of_random_texts_give_what_the_whole_gives():
    rng = random.Random(7)
    differences = 0
    for _ in range(RUNS):
        text = some_text(rng, NAMES)
        pieces = cut(text, [rng.randrange(len(text) + 1) for _ in range(rng.randrange(12))])
        differences += stream(TABLE, pieces) != expected(text)
    assert differences == 0


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(st.sampled_from(["E", "M", "I", "D", "_", "\\", " ", "A", "B", "ID_", "email_"]), max_size=30).map(
        "".join
    ),
    places=st.lists(st.integers(0, 60), max_size=8),
)
def test_cuts_of_texts_in_which_pseudonyms_lie_side_by_side_and_half(text, places):
    values = ["v1", "v2", "v3", "v4", "v5", "v6"]
    table, names = table_of(values, alphabet="AB", length=2)
    pieces = cut(text, [min(place, len(text)) for place in places])
    assert stream(table, pieces) == stream(table, [text]) == expected(text, names, values)


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(st.sampled_from(["EMAIL", "WORK", "E", "_", "-", " ", "A2", "2A", "A", "2", "\u200b"]), max_size=12),
    places=st.lists(st.integers(0, 60), max_size=8),
)
def test_cuts_of_texts_of_which_one_type_begins_another(text, places):
    table = PseudonymTable(b"k" * 32, alphabet="A2", length=2)
    kinds = ["email", "e_mail_work", "email_work_"]
    findings = [[Finding(kind=kind, start=0, end=2)] for kind in kinds[:2]]
    table.replace_all(prepare(["v1", "v2"]), findings)
    whole = "".join(text)
    assert stream(table, cut(whole, [min(place, len(whole)) for place in places])) == stream(table, [whole])


def test_a_type_that_begins_as_a_shorter_one_with_a_code_is_waited_for():
    table = PseudonymTable(b"k" * 32)
    findings = [[Finding(kind=kind, start=0, end=2)] for kind in ("email", "email_work")]
    _, name = table.replace_all(prepare(["v1", "v2"]), findings)
    spelling = name.replace("EMAILWORK", "EMAIL-WORK")
    assert stream(table, [spelling]) == stream(table, list(spelling)) == "v2"


@pytest.mark.parametrize("key", [bytes([number]) for number in range(8)])
def test_no_two_types_share_a_code_so_that_each_is_known_alone(key):
    table = PseudonymTable(key, alphabet="A2", length=2)
    findings = [[Finding(kind=kind, start=0, end=2)] for kind in ("email", "iban")]
    codes = [name.partition("_")[2] for name in table.replace_all(prepare(["v1", "v2"]), findings)]
    assert stream(table, [f"{codes[0]}, {codes[1]}"]) == "v1, v2"


def test_nothing_is_restored_in_text_that_holds_no_pseudonym():
    """Half the standard library, and a session of 2,000 values of 20 types."""
    values = [f"value {number}" for number in range(2000)]
    table = PseudonymTable(b"k" * 32)
    kinds = ["email", "phone", "person", "location", "iban", "id", "e", "of", "in", "return", "self", "def", "import"]
    table.replace_all(
        prepare(values), [[Finding(kind=kinds[i % len(kinds)], start=0, end=len(v))] for i, v in enumerate(values)]
    )
    texts = [path.read_text("utf-8") for path in sorted(Path(os.__file__).parent.glob("[a-m]*.py"))]
    assert sum(map(len, texts)) > 1_000_000
    assert not [text for text in texts if stream(table, [text]) != text]


JSON_PIECES = ['"', "\\", "\\n", "\\u00e9", "\\u00", "{", ": ", "e", "E", *NAMES, *(n.lower() for n in NAMES[:3])]


@settings(max_examples=200, deadline=None)
@given(text=st.lists(st.sampled_from(JSON_PIECES), max_size=16).map("".join), places=st.lists(st.integers(0, 200)))
def test_cuts_of_what_is_hardly_json_give_what_the_whole_gives(text, places):
    pieces = cut(text, [min(place, len(text)) for place in places])
    assert stream(TABLE, pieces, in_json=True) == stream(TABLE, [text], in_json=True)


documents = st.recursive(
    st.sampled_from([*NAMES, f"to {EMAIL}, {PHONE}", f"{EMAIL}{PHONE}", f'"{NAMES[2]}"', "\\", "é\n", 1, None, True]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*NAMES, "k", '"']), inner, max_size=3),
    max_leaves=8,
)


def restored(document: object) -> object:
    if isinstance(document, str):
        return expected(document)
    if isinstance(document, list):
        return [restored(each) for each in document]
    if isinstance(document, dict):
        return {restored(key): restored(each) for key, each in document.items()}
    return document


@settings(max_examples=200, deadline=None)
@given(document=documents, ascii_only=st.booleans(), places=st.lists(st.integers(0, 400), max_size=20))
def test_json_stays_valid_and_each_string_holds_the_values(document, ascii_only, places):
    text = json.dumps(document, ensure_ascii=ascii_only)
    pieces = cut(text, [min(place, len(text)) for place in places])
    assert json.loads(stream(TABLE, pieces, in_json=True)) == restored(document)


@pytest.mark.parametrize(
    ("spelled", "shown"),
    [
        (f"Write to {EMAIL}.", "Write to bob@example.org."),
        (EMAIL.lower(), "bob@example.org"),
        (EMAIL.title(), "bob@example.org"),
        (EMAIL.replace("_", "\\_"), "bob@example.org"),
        (EMAIL.replace("_", " _ "), "bob@example.org"),
        (EMAIL.replace("_", " \\\\_ "), "bob@example.org"),
        (NAMES[3].replace("_", " \\\\_ "), "EMAIL_QYSAI"),
        (f"**{EMAIL}** *{EMAIL}* _{EMAIL}_ `{EMAIL}`", "**{0}** *{0}* _{0}_ `{0}`".format("bob@example.org")),
        (f"[mail](mailto:{EMAIL})", "[mail](mailto:bob@example.org)"),
        (f"<{EMAIL}>;{PHONE}|{PHONE}", "<bob@example.org>;+49 30 1234567|+49 30 1234567"),
        (f"{EMAIL}{PHONE}", "bob@example.org+49 30 1234567"),
        (f"{EMAIL}s and {EMAIL}'s", "bob@example.orgs and bob@example.org's"),
        (f"请写信给{EMAIL}，谢谢", "请写信给bob@example.org，谢谢"),
        (f"EMAIL_{EMAIL}", "EMAIL_bob@example.org"),
        (f"EMAIL_AB{EMAIL}", "EMAIL_ABbob@example.org"),
        (EMAIL.replace("_", "-"), "bob@example.org"),
        (EMAIL.replace("_", " ").lower(), "bob@example.org"),
        (EMAIL.replace("_", "\n"), "bob@example.org"),
        (EMAIL.replace("_", "\\n"), "bob@example.org"),
        (EMAIL.replace("_", "\u200b_"), "bob@example.org"),
        (EMAIL.replace("_", "__"), "bob@example.org"),
        (EMAIL.replace("_", "&#95;"), "bob@example.org"),
        (EMAIL.replace("_", "&lowbar;"), "bob@example.org"),
        (EMAIL.replace("_", "%5F"), "bob@example.org"),
        (EMAIL.replace("_", "\\u005f"), "bob@example.org"),
        (EMAIL.replace("EMAIL", "E-Mail"), "bob@example.org"),
        (EMAIL.replace("EMAIL_", "E_MAIL_**"), "bob@example.org"),
        (f"The address is {CODE}.", "The address is bob@example.org."),
        (f"| IBAN | {CODE} |", "| IBAN | bob@example.org |"),
        (f"- email: {CODE}", "- email: bob@example.org"),
        (f"EMAIL:{CODE}", "EMAIL:bob@example.org"),
        (f"a{CODE} {CODE}b {CODE}", f"a{CODE} {CODE}b bob@example.org"),
    ],
)
def test_what_models_do_to_pseudonyms_is_undone(spelled, shown):
    assert stream(TABLE, [spelled]) == stream(TABLE, list(spelled)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "EMAIL_AAAAA is unknown, email_about too",
        EMAIL.replace("_", ""),
        EMAIL[:-1],
        EMAIL[1:-1],
        EMAIL[:-1] + ("A" if EMAIL[-1] != "A" else "B"),
        CODE.lower(),
        f"x{CODE}",
        f"{CODE}x",
        f"_{CODE}",
        f"{CODE}_",
        f"PHONE_{CODE}",
        f"{CODE[:3]} {CODE[3:]}",
        EMAIL.replace("I", "ı"),
    ],
)
def test_what_could_be_something_else_is_left_alone(text):
    assert stream(TABLE, [text]) == stream(TABLE, list(text)) == text


def test_a_restored_value_that_reads_as_a_pseudonym_is_not_restored_again():
    table = PseudonymTable(b"k" * 32)
    email = replace(table, "a@example.org", [Finding(kind="email", start=0, end=13)])
    person = replace(table, email, [Finding(kind="person", start=0, end=len(email))])
    assert person != email
    for pieces in ([person], list(person), [person[:-1], person[-1] + "\n"]):
        assert stream(table, pieces).rstrip("\n") == email
    half = replace(table, "EMAIL_", [Finding(kind="person", start=0, end=6)])
    assert stream(table, [half, email[6:]]) == email


def test_only_an_end_that_could_begin_a_known_pseudonym_is_held_back():
    one = Restorer(TABLE)
    assert one.feed("my EMAIL_") == "my "
    assert one._held
    unknown = "2" if EMAIL[6] != "2" else "3"
    assert one.feed(unknown) == f"EMAIL_{unknown}"
    assert not one._held
    assert one.feed(f"to {CODE}") == "to "
    assert one.feed("!") == "bob@example.org!"
    assert one.feed("to EMA") == "to "
    assert one.feed("NUEL") == "EMANUEL"[:-1] + "L"
    assert one.feed(EMAIL[:-1]) == ""
    assert one.finish() == EMAIL[:-1]


def test_a_backslash_is_held_back_inside_a_string_of_json_only():
    one = Restorer(TABLE, json=True)
    assert one.feed("[\\") == "[\\"
    assert one.feed('"\\') == '"'
    assert one.feed("n") == "\\n"


def test_a_table_without_entries_holds_nothing_back():
    one = Restorer(PseudonymTable())
    assert [one.feed(piece) for piece in ("EMAIL_", "", "E")] == ["EMAIL_", "", "E"]


def test_a_restorer_knows_what_its_table_knew_when_it_was_made():
    table = PseudonymTable()
    first = replace(table, "bob@example.org", [Finding(kind="email", start=0, end=15)])
    before = Restorer(table)
    second = replace(table, "eve@example.org", [Finding(kind="email", start=0, end=15)])
    assert before.feed(f"{first} {second} ") + before.finish() == f"bob@example.org {second} "
    assert stream(table, [f"{first} {second}"]) == "bob@example.org eve@example.org"


@pytest.mark.parametrize("value", ['say "hi"', "back\\slash", "two\nlines", "tab\t", "张伟", "\u2028", "\x00", "a/b"])
def test_inside_a_string_of_json_a_value_is_escaped_and_outside_it_becomes_a_string(value):
    table, (name,) = table_of([value])
    text = f'{{"a": "x {name} \\" {name}", "b": {name}}}'
    for pieces in ([text], list(text)):
        assert json.loads(stream(table, pieces, in_json=True)) == {"a": f'x {value} " {value}', "b": value}


def test_an_escape_of_json_before_a_pseudonym_stays_whole():
    table = PseudonymTable(b"k" * 32)
    name = replace(table, "Zoe", [Finding(kind="n", start=0, end=3)]).lower()  # n_xxxxx, as if after a line break
    text = f'"\\{name} {name} \\u000{name} \\\\{name} \\"{name}"'
    for pieces in ([text], list(text)):
        assert stream(table, pieces, in_json=True).startswith(f'"\\{name} Zoe ')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'"\\u000{EMAIL.lower()}"', f'"\\u000{EMAIL.lower()}"'),
        (f'"\\u00E{EMAIL}"', f'"\\u00E{EMAIL}"'),
        (f'"\\u00EE{EMAIL}"', '"\\u00EEbob@example.org"'),
        (f"\\u00E{EMAIL}", '\\u00E"bob@example.org"'),
    ],
)
def test_the_digits_of_an_escape_inside_a_string_begin_no_pseudonym(text, shown):
    for pieces in ([text], list(text)):
        assert stream(TABLE, pieces, in_json=True) == shown


def test_one_restorer_takes_one_answer_after_the_other():
    one = Restorer(TABLE, json=True)
    assert one.feed('"open ') + one.finish() == '"open '
    assert one.feed(EMAIL) + one.finish() == '"bob@example.org"'
