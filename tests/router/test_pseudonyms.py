"""Pseudonyms replace values, and every text is restored exactly: properties over adversarial texts and findings."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.router.privacy.detectors import DETECTORS, Finding, prepare
from hybrid_llm.router.privacy.pseudonyms.notation import type_of
from hybrid_llm.router.privacy.pseudonyms.table import Entry, PseudonymTable
from hybrid_llm.router.privacy.restore import Restorer
from hybrid_llm.router.privacy.sessions import Sessions

EXAMPLES = int(os.environ.get("HYBRID_TESTS_EXAMPLES", "150"))
KINDS = ["email", "phone", "payment_card", "iban", "cn_resident_id", "text", "名", "e"]
# Texts that read as pseudonyms, or half of one, of a table that has only four suffixes for each type.
PIECES = [
    "EMAIL",
    "email_",
    "PHONE",
    "ID",
    "TEXT_",
    "VALUE",
    "E",
    "_",
    "\\_",
    " _ ",
    "\\",
    " ",
    "A",
    "B",
    "ab",
    "BA",
    "I",
    "D",
    "id_",
]
PIECES += ["bob@example.org", "+49 30 1234567", "张伟", "\n", '"', "\ud83d", "é", "ſ", "K", "İ", "s"]


def replace(table: PseudonymTable, text: str, findings: list[Finding]) -> str:
    return table.replace_all(prepare([text]), [findings])[0]


def tiny() -> PseudonymTable:
    return PseudonymTable(b"key", alphabet="AB", length=2)


def knotty() -> PseudonymTable:
    """A suffix may be ID here, which is a type as well: `EMAIL_ID_DI` holds two that overlap."""
    return PseudonymTable(b"key", alphabet="ID", length=2)


def find(text: str) -> list[Finding]:
    return [finding for detector in DETECTORS.values() for finding in detector.find(text)]


def restore(table: PseudonymTable, text: str) -> str:
    one = Restorer(table)
    return one.feed(text) + one.finish()


@st.composite
def found_texts(draw: st.DrawFn) -> tuple[str, list[Finding]]:
    text = "".join(draw(st.lists(st.sampled_from(PIECES), max_size=12)))
    findings = []
    for _ in range(draw(st.integers(0, 3)) if text else 0):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        findings.append(Finding(kind=draw(st.sampled_from(KINDS)), start=start, end=end))
    return text, findings


@pytest.mark.parametrize("make", [tiny, knotty, PseudonymTable])
def test_every_text_of_every_turn_comes_back_exactly_and_no_value_is_left_between_pseudonyms(make):
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(turns=st.lists(st.lists(found_texts(), min_size=1, max_size=3), min_size=1, max_size=3))
    def hold(turns: list[list[tuple[str, list[Finding]]]]) -> None:
        table, values = make(), set()
        for turn in turns:
            texts = [text for text, _ in turn]
            values |= {text[f.start : f.end] for text, findings in turn for f in findings}
            try:
                written = table.replace_all(prepare(texts), [findings for _, findings in turn])
            except PrivacyViolation:  # four suffixes are soon used up; nothing was written then
                assert make is not PseudonymTable
                return
            assert [restore(table, text) for text in written] == texts
            names = "|".join(table._entries) or "(?!)"
            left = [part for text in written for part in re.split(names, text)]
            assert not [value for value in values for part in left if value in part]

    hold()


def test_a_value_has_one_pseudonym_on_every_turn_and_another_in_another_session():
    table, other = PseudonymTable(), PseudonymTable()
    first = replace(table, "I am bob@example.org", find("I am bob@example.org"))
    assert re.fullmatch(r"I am EMAIL_[A-Z2-7]{5}", first)
    assert replace(table, "bob@example.org again", find("bob@example.org again")) == f"{first[5:]} again"
    assert replace(other, "I am bob@example.org", find("I am bob@example.org")) != first


def test_the_same_key_gives_the_same_pseudonyms():
    texts = [replace(PseudonymTable(b"k" * 32), "a@example.org", find("a@example.org")) for _ in range(2)]
    assert texts[0] == texts[1]


def test_another_spelling_has_another_pseudonym_so_that_both_come_back():
    table, text = PseudonymTable(), "Bob@Example.org and bob@example.org"
    written = replace(table, text, find(text))
    assert len(set(re.findall(r"EMAIL_\w{5}", written))) == 2
    assert restore(table, written) == text


def test_a_known_value_is_replaced_where_no_detector_fires():
    table = PseudonymTable()
    name = replace(table, "张伟", [Finding(kind="person", start=0, end=2)])
    assert replace(table, "我叫张伟。", []) == f"我叫{name}。"


def test_what_is_found_in_one_text_of_a_request_is_replaced_in_those_before_it():
    table = PseudonymTable()
    first, second = table.replace_all(prepare(["Zoe asks", "I am Zoe"]), [[], [Finding(kind="person", start=5, end=8)]])
    assert first == second.removeprefix("I am ") + " asks"


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_value_is_replaced_as_it_stands_in_json_and_comes_back_so(ascii_only):
    table, value = PseudonymTable(), '张 "Wei"\nZhang'
    replace(table, value, [Finding(kind="person", start=0, end=len(value))])
    document = json.dumps({"name": value}, ensure_ascii=ascii_only)
    written = replace(table, document, [])
    assert "Zhang" not in written
    assert restore(table, written) == document
    args = Restorer(table, json=True)
    assert json.loads(args.feed(written) + args.finish()) == {"name": value}


def test_findings_that_overlap_are_one_value_of_the_type_of_the_longest():
    table, text = PseudonymTable(), "x abcdefgh y"
    kinds = [("phone", 2, 5), ("email", 4, 10), ("iban", 6, 8)]
    written = replace(table, text, [Finding(kind=kind, start=start, end=end) for kind, start, end in kinds])
    assert re.fullmatch(r"x EMAIL_\w{5} y", written)
    assert restore(table, written) == text


def test_a_value_that_overlaps_itself_is_replaced_completely():
    table = PseudonymTable()
    replace(table, "1212", [Finding(kind="phone", start=0, end=4)])
    written = replace(table, "a 12121212 b", [])
    assert re.fullmatch(r"a TEL_\w{5} b", written)
    assert restore(table, written) == "a 12121212 b"


def test_a_text_full_of_typed_pseudonyms_is_replaced_in_one_go():
    table = PseudonymTable()
    text = " and ".join([replace(table, "bob@example.org", find("bob@example.org"))] * 5000)
    written = replace(table, text, [])
    assert len(set(written.split(" and "))) == 1
    assert restore(table, written) == text


def test_findings_that_touch_are_two_values():
    table = PseudonymTable()
    written = replace(table, "abcd", [Finding(kind="email", start=0, end=2), Finding(kind="phone", start=2, end=4)])
    assert re.fullmatch(r"EMAIL_\w{5}TEL_\w{5}", written)
    assert restore(table, written) == "abcd"


def test_a_user_who_types_a_known_pseudonym_gets_it_back_and_not_the_value():
    table = PseudonymTable()
    name = replace(table, "bob@example.org", find("bob@example.org"))
    for spelling in (name, name.lower(), name.replace("_", "\\_"), name.replace("_", " _ ")):
        written = replace(table, f"what is {spelling}?", [])
        assert re.fullmatch(r"what is TEXT_\w{5}\?", written)
        assert restore(table, written) == f"what is {spelling}?"


def test_a_new_pseudonym_is_none_of_those_that_the_texts_already_hold():
    text = "email_aa Email\\_AB email _ ba bob@example.org"
    assert replace(tiny(), text, find(text)).endswith(" EMAIL_BB")


def test_text_and_pseudonym_that_together_read_as_another_one_are_replaced_together():
    table = knotty()
    values = [f"{c}@example.org" for c in "abcd"]
    text = " ".join(values)
    assert {"EMAIL_ID"} < set(replace(table, text, find(text)).split())
    text = "EMAIL_110101199003070038"
    written = replace(table, text, [Finding(kind="cn_resident_id", start=6, end=24)])
    assert restore(table, written) == text


def test_a_typed_pseudonym_after_an_unknown_one_is_found():
    table = knotty()
    email, name = table.replace_all(
        prepare(["a@example.org", "110101199003070038"]),
        [[Finding(kind="email", start=0, end=13)], [Finding(kind="cn_resident_id", start=0, end=18)]],
    )
    assert email != "EMAIL_ID"
    text = f"EMAIL_{name}"  # EMAIL_ID is none, and ends within one
    assert restore(table, replace(table, text, [])) == text


def test_no_pseudonym_begins_another_and_each_is_its_type_and_five_letters():
    table = PseudonymTable()
    texts = [f"value {i}" for i in range(500)]
    names = table.replace_all(
        prepare(texts), [[Finding(kind=KINDS[i % len(KINDS)], start=0, end=len(t))] for i, t in enumerate(texts)]
    )
    assert len(set(names)) == len(table) == 500
    assert all(re.fullmatch(r"[A-Z]+_[A-Z2-7]{5}", name) for name in names)
    ordered = sorted(names)
    assert not any(later.startswith(name) for name, later in itertools.pairwise(ordered))


@pytest.mark.parametrize(
    ("kind", "short"),
    [
        ("email", "EMAIL"),
        ("phone", "TEL"),
        ("payment_card", "CARD"),
        ("cn_resident_id", "ID"),
        ("us_ssn", "SSN"),
        ("ip_address", "IP"),
        ("date_of_birth", "DATEOFBIRTH"),
        ("x" * 40, "X" * 12),
        ("姓名", "VALUE"),
        ("", "VALUE"),
        ("ß1", "SS"),
    ],
)
def test_a_type_is_a_few_capital_letters(kind, short):
    assert type_of(kind) == short


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (0, 99), (3, 3), (4, 2)])
def test_a_finding_outside_its_text_is_refused_without_showing_the_text(start, end):
    with pytest.raises(ValueError, match=rf"'email' is from {start} to {end}, in a text of 12") as caught:
        replace(PseudonymTable(), "secret words", [Finding(kind="email", start=start, end=end)])
    assert "secret" not in str(caught.value)


def test_lists_of_findings_and_texts_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match="2 texts with 1 lists of findings"):
        PseudonymTable().replace_all(prepare(["a", "b"]), [[]])


@pytest.mark.parametrize(
    "options", [{"alphabet": ""}, {"alphabet": "ab"}, {"alphabet": "A_"}, {"length": 0}, {"length": 65}]
)
def test_an_ambiguous_alphabet_or_length_is_refused(options):
    with pytest.raises(ConfigError):
        PseudonymTable(**options)


def test_when_all_pseudonyms_are_used_up_nothing_is_written():
    with pytest.raises(PrivacyViolation, match="no free pseudonym is left for the type EMAIL") as caught:
        replace(tiny(), "abcde", [Finding(kind="email", start=i, end=i + 1) for i in range(5)])
    assert "a" not in str(caught.value).split()


def test_a_wiped_table_refuses_everything_and_so_do_its_restorers():
    table = PseudonymTable()
    name = replace(table, "bob@example.org", find("bob@example.org"))
    running = Restorer(table)
    table.wipe()
    table.wipe()
    for use in (lambda: replace(table, "x", []), lambda: Restorer(table), lambda: running.feed(name), running.finish):
        with pytest.raises(PrivacyViolation, match="wiped"):
            use()
    assert repr(table) == "PseudonymTable(wiped)"


def reached(thing: object) -> set[object]:
    """Every text and every run of bytes that *thing* leads to, through containers and records."""
    if isinstance(thing, str | bytes | bytearray):
        return {bytes(thing) if isinstance(thing, bytearray) else thing}
    if not isinstance(thing, PseudonymTable | Entry | dict | set | tuple):
        return set()
    return set().union(*map(reached, gc.get_referents(thing)))


def test_a_wiped_table_leads_to_no_value_and_to_no_key():
    table = PseudonymTable(b"k" * 32)
    name = replace(table, "bob@example.org", find("bob@example.org"))
    assert {"bob@example.org", name, b"k" * 32} <= reached(table)
    table.wipe()
    assert not reached(table) & {"bob@example.org", name, b"k" * 32}


def test_no_repr_shows_a_value_and_nothing_can_be_copied_or_pickled():
    table = PseudonymTable()
    name = replace(table, "bob@example.org", find("bob@example.org"))
    running = Restorer(table)
    assert "bob" not in f"{table!r} {table} {running!r} {table.entry(name)!r}"
    for thing in (table, running):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                duplicate(thing)


def test_many_threads_on_one_table_agree_and_lose_nothing():
    table = PseudonymTable()
    texts = [f"user{i % 40}@example.org calls +49 30 {1234500 + i}" for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda text: replace(table, text, find(text)), texts))
        assert list(pool.map(lambda text: restore(table, text), written)) == texts
    assert len({text.split()[0] for text in written}) == 40
    assert len(table) == 440


# --- sessions ---------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def wiped(table: PseudonymTable) -> bool:
    return "wiped" in repr(table)


def test_a_session_keeps_its_table_from_request_to_request():
    sessions = Sessions()
    with closing(sessions.open("a")) as first, closing(sessions.open("b")) as other:
        assert other.table is not first.table
    with closing(sessions.open("a")) as again:
        assert again.table is first.table
        assert not wiped(again.table)


def test_only_a_session_that_knows_a_value_is_resumed():
    sessions = Sessions()
    assert sessions.resume("a") is None
    assert sessions.resume(None) is None
    with closing(sessions.open("a")) as lease:
        assert sessions.resume("a") is None
        replace(lease.table, "bob@example.org", find("bob@example.org"))
    again = sessions.resume("a")
    assert again is not None
    assert again.table is lease.table
    assert sessions.resume("a", tenant="x") is None
    sessions.forget("a")
    assert not wiped(again.table)
    again.close()
    assert wiped(again.table)
    assert sessions.resume("a") is None


def test_the_same_session_id_of_another_tenant_is_another_session():
    sessions = Sessions()
    assert sessions.open("a", tenant="x").table is not sessions.open("a", tenant="y").table


def test_a_request_without_a_session_has_a_table_that_is_wiped_when_its_answer_ends():
    sessions = Sessions()
    with closing(sessions.open(None)) as one, closing(sessions.open(None)) as two:
        assert one.table is not two.table
        one.close()
        one.close()
        assert wiped(one.table)
        assert not wiped(two.table)
    assert wiped(two.table)


def test_the_least_recently_used_session_is_evicted_once_it_has_no_lease():
    sessions = Sessions(capacity=2)
    a, b = sessions.open("a"), sessions.open("b")
    a.close()
    b.close()
    sessions.open("a").close()
    sessions.open("c").close()
    assert (wiped(a.table), wiped(b.table), len(sessions)) == (False, True, 2)
    held = sessions.open("c")
    sessions.open("d").close()
    sessions.open("e").close()
    assert not wiped(held.table)
    held.close()
    assert wiped(held.table)


def test_an_idle_session_is_wiped_and_one_in_use_is_not():
    clock = Clock()
    sessions = Sessions(idle_s=10.0, clock=clock)
    idle, busy = sessions.open("idle"), sessions.open("busy")
    idle.close()
    clock.now = 10.0
    sessions.open(None).close()
    assert (wiped(idle.table), wiped(busy.table)) == (True, False)
    busy.close()
    clock.now = 19.0
    assert sessions.open("busy").table is busy.table, "idle time counts from the end of the last answer"


def test_forgetting_wipes_at_once_or_when_the_last_answer_ends():
    sessions = Sessions()
    sessions.open("a").close()
    lease = sessions.open("a")
    sessions.forget("a")
    sessions.forget("unknown")
    assert sessions.open("a").table is not lease.table
    assert not wiped(lease.table)
    lease.close()
    assert wiped(lease.table)


def test_closing_wipes_all_tables_and_refuses_more():
    sessions = Sessions()
    tables = [sessions.open(name).table for name in ("a", None, "b")]
    sessions.open("b").close()
    sessions.close()
    sessions.close()
    assert all(map(wiped, tables))
    with pytest.raises(PrivacyViolation, match="wiped"):
        sessions.open("a")


@pytest.mark.parametrize("options", [{"capacity": 0}, {"idle_s": 0.0}, {"idle_s": float("nan")}])
def test_invalid_limits_of_sessions_are_refused(options):
    with pytest.raises(ConfigError, match="`capacity` must be at least 1"):
        Sessions(**options)


def test_many_threads_open_and_close_sessions_and_every_lease_works():
    sessions = Sessions(capacity=4)

    def one(i: int) -> bool:
        text, name = f"user{i}@example.org", str(i % 7) if i % 3 else None
        try:
            opened = sessions.open(name)
        except PrivacyViolation:  # it was dropped
            sessions.forget(str(name))
            return one(i)
        with closing(opened) as lease:
            return restore(lease.table, replace(lease.table, text, find(text))) == text

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(500)))
    assert len(sessions) <= 4
    assert not sessions._unnamed
