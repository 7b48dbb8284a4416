"""Values in texts whose direction is changed are found where they are shown (Unicode UAX #9)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.router.privacy.detectors import DETECTORS
from hybrid_llm.router.privacy.detectors.bidi import DIRECTIONS, shown

LRE, RLE, PDF, LRO, RLO, LRI, RLI, FSI, PDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
RLM, ALM = "\u200f\u061c"
IBAN = "DE89370400440532013000"
CARD = "4111 1111 1111 1111"
SWAPPED = "1111 1111 1111 4111"
"""The groups of `CARD` as they are written where it is shown from right to left."""
KEY = "ghp_4f8sKq0ZyT2vXw9LmN3bRc7JdH5gPa6UeVtQ"
VALUES = {"iban": IBAN, "payment_card": CARD, "credential": KEY}
REVERSED = {
    "an override": (RLO, PDF),
    "an override up to the end": (RLO, ""),
    "an override up to the end of its paragraph": (RLO, "\nand more"),
    "an override within an isolate": (LRI + RLO, PDI),
    "an override within an embedding": (RLE + RLO, PDF + PDF),
    "an override with one to the right before it": (RLO + LRO + PDF, PDF),
    "an override that no U+202C of an isolate ends": (RLO + LRI + PDF + PDI, PDF),
    "an override in an isolate by its first letter": (FSI + RLO, PDI),
}
PLAIN = st.text(alphabet=st.sampled_from([*"kqvwz .,;:-()", "\u05d0", "\u4e2d", "\u00e9"]), max_size=40)


def covers(kind: str, text: str, start: int, end: int) -> bool:
    return any(found.start <= start and end <= found.end for found in DETECTORS[kind].find(text))


@pytest.mark.parametrize("form", sorted(REVERSED))
@pytest.mark.parametrize("kind", sorted(VALUES))
@settings(max_examples=30)
@given(before=PLAIN, between=PLAIN, times=st.integers(0, 400), behind=PLAIN)
def test_a_value_is_found_however_far_behind_its_override(form, kind, before, between, times, behind):
    begin, end = REVERSED[form]
    text = f"{before} {begin}{behind[::-1]} {VALUES[kind][::-1]} {between * times}{end}"
    at = text.index(VALUES[kind][::-1])
    assert covers(kind, text, at, at + len(VALUES[kind]))


@pytest.mark.parametrize(
    "text",
    [
        f"{RLI}{SWAPPED}{PDI}",
        f"{RLE}{SWAPPED}{PDF}",
        f"{RLM}{SWAPPED}",
        f"{ALM}{SWAPPED}",
        f"{FSI}\u05d0 {SWAPPED}{PDI}",
        f"&#8238;{CARD[::-1]}",
        f"\\u202e{IBAN[::-1]}",
        f"(4111 1111 {RLO}1111 1111)",
        f"{RLI * 9}x",
    ],
)
def test_a_value_is_found_as_it_is_shown(text):
    assert [kind for kind in ("payment_card", "iban") if list(DETECTORS[kind].find(text))]


def test_an_override_ends_with_its_paragraph():
    assert not covers("iban", f"{RLO}x\n{IBAN[::-1]}", 3, 25)
    assert covers("iban", f"{RLO}x\n{IBAN}", 3, 25)


def test_a_find_covers_no_more_than_what_is_shown_of_it():
    text = f"see {RLO}emit{PDF} {RLO}{IBAN[::-1]}{PDF} and so on"
    (found,) = DETECTORS["iban"].find(text)
    assert text[found.start : found.end] == IBAN[::-1]


@pytest.mark.parametrize(
    "text",
    [f"Hello {FSI}Jane{PDI}, {LRI}3{PDI} of {RLI}\u05d0\u05d1{PDI}", f"\u05d0 {RLM}12{LRO}34{PDF}", "a\u200eb"],
)
def test_a_directed_text_without_a_value_is_no_find(text):
    assert not [kind for kind in DETECTORS if list(DETECTORS[kind].find(text))]


def test_what_nests_too_deep_to_be_read_is_found_by_every_detector():
    text = f"fine\n{(RLE + LRE) * 8}{IBAN}"
    for kind in DETECTORS:
        assert covers(kind, text, 5, len(text)), kind


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (f"a {RLO}cba{PDF} d", "a abc d"),
        (f"{RLO}c{LRO}123{PDF}ba", "ab123c"),
        (f"{RLI}1 2{PDI} a", "2 1 a"),
        (f"{RLI}a 1 2{PDI}", "a 1 2"),
        (f"{RLI}1-2, 3.4{PDI}", "3.4 ,1-2"),
        (f"\u05d0{RLM}$1 2%", "2% $1\u05d0"),
        (f"\u0627{RLM} 1-2", "1-2 \u0627"),
        (f"{RLE}1 {LRE}a b{PDF} 2{PDF}", "a b 2 1"),
        (f"{RLI}1 {LRI}a b{PDI} 2{PDI}", "2 a b 1"),
        (f"{RLO}(a]{PDF}", "[a)"),
        (f"{PDI}{PDF}{RLE}{PDF}1 2", "1 2"),
    ],
)
def test_parts_are_ordered_by_the_rules_of_unicode(written, expected):
    """The expected texts are those that python-bidi shows."""
    reading = shown(written)
    assert reading is not None
    assert "".join(char for char in reading.text if char not in DIRECTIONS and char != "\xad") == expected


@given(st.text(alphabet=st.sampled_from([*"ab12-. ,\n", "\u05d0", "\u0627", *DIRECTIONS]), max_size=60))
def test_a_reading_moves_every_character_and_knows_where_it_was(text):
    reading = shown(text)
    if reading is None:
        return
    places = [reading.origin(at, at + 1) for at in range(len(reading.text))]
    dropped = {text[at] for at in set(range(len(text))) - {start for start, _ in places}}
    assert len(set(places)) == len(places)
    assert dropped <= DIRECTIONS
