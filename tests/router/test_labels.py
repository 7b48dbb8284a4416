"""Words for and against each kind: abbreviated labels, values before their word, tables, drawings, loose words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.router.privacy.detectors import DETECTORS, find_with, prepare


def found(kind: str, text: str) -> list[str]:
    """What the detector *kind* finds in *text*."""
    only = prepare([text])[0]
    return [text[finding.start : finding.end] for finding in find_with(DETECTORS[kind], only)]


LABELS = {
    "us_ssn": (
        "511073750",
        ("SSN", "s.s.n.", "S.S.N.", "soc sec no", "soc_sec_no", "social security #", "SS#", "ss no", "tax id"),
    ),
    "driver_license": (
        "MORGA 657054 SM9IJ",
        ("DL no.", "D.L.", "dl_number", "lic #", "Lic. No.", "license no", "driver_license_number", "DLN"),
    ),
    "medical_record": (
        "331-43-82",
        ("MRN", "m.r.n.", "pt id", "Pt. No.", "patient ID", "med rec no", "MR#", "chart_number", "Patientennummer"),
    ),
    "passport": ("E12345678", ("passport #", "pass no", "ppt no", "passport_number", "Reisepassnummer")),
    "date_of_birth": ("1970-12-01", ("DOB", "d.o.b.", "birth date", "date_of_birth", "birthday", "Geburtsdatum")),
    "national_id": ("046 454 286", ("SIN", "social insurance number", "social_insurance_number", "soc ins no")),
}  # fmt: skip
PLACES = {
    "form": "{label}: {value}\nCity: Graz\n",
    "JSON": '{{"id": 7, "{label}": "{value}"}}',
    "pair": '[{{"key": "city", "value": "Graz"}}, {{"key": "{label}", "value": "{value}"}}]',
    "list of variables": 'env:\n  - name: {label}\n    value: "{value}"\n  - name: CITY\n    value: Graz\n',
    "tabs": "id\tname\t{label}\tstatus\n6207\tOmar\t\tclosed\n8179\tEva\t{value}\topen\n",
    "tabs, at the end": "id\tname\t{label}\n6207\tOmar\t\n8179\tEva\t{value}\n",
    "one row": "name\t{label}\nEva\t{value}\n",
    "commas, at the end": "id,name,{label}\n1,Omar,\n2,Eva,{value}\n",
    "numbered": "#\tname\t{label}\n1\tEva Maria Doe\t{value}\n",
    "unnamed index": ",name,{label}\n0,Omar,\n1,Eva,{value}\n",
    "attribute": '<user id="4655" {label}="{value}" city="Graz"/>',
    "before it": "{value} is the {label} that I have",
    "before it, in brackets": "its {value} ({label})",
    "at the end of a sentence": "The {label} is {value}. It worked with version 2.1 before.",
    "in the middle": "Please look up {label} {value} for me.",
}
CASES = [(kind, label, place) for kind, (_, labels) in LABELS.items() for label in labels for place in PLACES]


@pytest.mark.parametrize(("kind", "label", "place"), CASES)
def test_a_label_names_its_value_in_every_layout(kind, label, place):
    value = LABELS[kind][0]
    written = label.replace(" ", "_").replace("#", "no") if place == "attribute" else label
    assert any(value in find for find in found(kind, PLACES[place].format(label=written, value=value)))


@pytest.mark.parametrize(
    "text",
    [
        "They're not answering at 78 651 450",
        "They're not answering at 71-33-52-22",
        "I would like to stop receiving messages to 699 956 915",
        "I didn't get any message on my registered 668 5702. Could you look into it?",
        "781 1704 office\n(579)888-3058 fax",
        "416 60 039 office",
        "he rang from 78 651 450",
        "Please reply to 781 1704 today.",
        "Text (21) 3964-6187 when you arrive.",
        "Reception: 781-1704",
    ],
)
def test_a_loose_word_beside_a_number_in_prose_is_evidence(text):
    assert found("phone", text)


@pytest.mark.parametrize(
    "text",
    [
        "message 256 512 1024",
        "texts to 256 512 1024",
        '{"messages": "78 651 450"}',
        "messages = 78 651 450",
        "work[12 345 678] = 78 651 450",
        "text 1700000000",
        "call 1700000000 returned",
        "call 1700000000123 returned",
        '{"call": 1700000000}',
        "The office is at 17031 2202 Rissik St",
    ],
)
def test_a_loose_word_in_program_text_or_far_from_a_number_is_none(text):
    assert found("phone", text) == []


def test_a_number_like_a_time_is_found_where_a_word_names_it():
    assert found("phone", "phone: 1632960123") == ["1632960123"]


VALID = {
    "payment_card": ("4111111111111111", ("card", "credit card", "paid with"), ("order_id", "tracking number", "isbn")),
    "iban": ("GB82WEST12345698765432", ("iban", "account"), ("hash", "license key", "voucher")),
    "mac_address": ("00:1b:44:11:3a:b7", ("mac", "ether", "bssid"), ("fingerprint", "sha", "serial", "hex", "example")),
    "crypto_wallet": ("0x52908400098527886E0F7030069857D2E4169EE7", ("wallet", "eth address"), ("commit", "hash")),
    "ip_address": ("2001:db8:85a3:8d3:1319:8a2e:370:7348", ("ip", "host"), ("uuid", "hash", "fingerprint")),
    "national_id": ("12345678Z", ("DNI", "national id"), ("order", "sku", "serial", "part number")),
    "cn_resident_id": ("11010519491231002X", ("身份证", "id card"), ("tracking", "serial", "订单")),
}  # fmt: skip


@pytest.mark.parametrize("kind", VALID)
def test_every_score_has_words_against_it_and_a_word_for_it_wins(kind):
    value, words, others = VALID[kind]
    assert found(kind, f"It says {value}, that is all.") == [value]
    for other in others:
        for layout in ("{} {}", "{}: {}", '{{"{}": "{}"}}', "{},city\n{},Graz\n"):
            assert found(kind, layout.format(other, value)) == []
        for word in words:
            assert found(kind, f"{other} 7, {word} {value}") == [value]
            assert found(kind, f'{{"{other}": 7, "{word}": "{value}"}}') == [value]


@pytest.mark.parametrize("path", ["M4 130.25.40.5 3 2h4.5z", "M4,130.25.40.5,3,2,h4.5z"])
def test_numbers_written_together_in_a_drawing_are_no_address(path):
    assert found("ip_address", f'<path d="{path}"/>') == []


NUMBERS = st.one_of(
    st.integers(0, 99).map(str),
    st.integers(0, 999).map(lambda n: f".{n}"),
    st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda pair: f"{pair[0]}.{pair[1]}"),
)
STEPS = st.tuples(
    st.sampled_from("MLHVCSQTAmlhvcsqta"),
    st.lists(st.tuples(st.sampled_from([" ", ",", "-", "\n  ", " -"]), NUMBERS), min_size=2, max_size=6),
)


@given(st.lists(STEPS, min_size=2, max_size=20), st.booleans())
def test_no_number_in_the_path_of_a_drawing_is_an_address(steps, compact):
    path = "".join(command + "".join(sign + number for sign, number in pairs).lstrip() for command, pairs in steps)
    path = path.replace(" .", ".") if compact else path
    assert found("ip_address", f'<path fill="none" d="{path}z"/>') == []


@pytest.mark.parametrize(
    "text",
    [
        "3.1.4.1 Scope of this document",
        "the OID 2.5.29.17 is critical",
        "see section 12.4.3.1",
        "Bumps foo from 1.2.3.4 to 1.2.3.5",
        "[0.5, 1.2.3.4, 7.5]",
        "libfoo.so.1.2.3.4",
        "firmware 4.8.1.78 from 2024",
    ],
)
def test_numbers_of_versions_and_sections_are_no_addresses(text):
    assert found("ip_address", text) == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1731234567.123    57 203.0.113.7 TCP_MISS/200 1234 GET", "203.0.113.7"),
        (" 3  203.0.113.7  12.345 ms", "203.0.113.7"),
        ("203.0.113.7 0.023 0.045 200", "203.0.113.7"),
        ("20251129T101112Z 203.0.113.7 GET", "203.0.113.7"),
        ("12,203.0.113.7,0.53,foo", "203.0.113.7"),
        ("release 4 is deployed on 91.103.174.85 since then", "91.103.174.85"),
        ("ping 8.8.8.8", "8.8.8.8"),
        ("nameserver 1.1.1.1", "1.1.1.1"),
    ],
)
def test_addresses_between_numbers_are_found(text, address):
    assert found("ip_address", text) == [address]
