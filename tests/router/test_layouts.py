"""Layouts in which a label stands apart from its value: on the line before, in a name, in a sentence, at a parent."""

from __future__ import annotations

import pytest

from hybrid_llm.router.privacy.detectors import DETECTORS, find_with, prepare

WORDS = {
    "passport": ("C4KXF2LRJ", "passport number", "userPassportNo"),
    "driver_license": ("12345/67/8901", "driver's licence number", "renterDriversLicence"),
    "credential": ("Summer2019!", "password", "userPassword"),
    "date_of_birth": ("12.05.1984", "date of birth", "patientDob"),
    "medical_record": ("A82731", "medical record number", "patientMrn"),
    "us_ssn": ("511073750", "SSN", "employeeSsn"),
    "phone": ("5551234", "phone number", "customerPhone"),
}
LAYOUTS = {
    "a star, brackets below": "{label} *\n[{value}]",
    "a form of them": "Name *\n[Jane Doe]\n\n{label} *\n[ {value} ]\n",
    "a star before": "* {label}\n[{value}]",
    "syslog, colon": "Nov 30 08:00:01 app1 worker[311]: job=77 {name}: {value} saved",
    "syslog, equals sign": "<134>1 2025-11-12T08:00:01Z app1 auth - - {name}={value}",
    "syslog, space": "Nov 12 08:00:01 app1 worker[311]: {name} {value} rejected",
    "bold in a sentence": "<p>Hello, my {label} is <b>{value}</b> and I live in Graz.</p>",
    "bold behind its word": "<p>Please note that the {label} <b>{value}</b> was changed.</p>",
    "parent's name": '<field name="{name}"><value>{value}</value></field>',
    "parent's key": '<record>\n <attribute key="{name}">\n  <string>{value}</string>\n </attribute></record>',
    "parent's id": '<prop id="{name}"><val type="s">{value}</val></prop>',
    "parent's label": '<item label="{label}"><content>{value}</content></item>',
    "parent's short name": '<f n="{name}"><v>{value}</v></f>',
}


def found(kind: str, text: str) -> list[str]:
    only = prepare([text])[0]
    return [text[each.start : each.end] for each in find_with(DETECTORS[kind], only)]


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("kind", sorted(WORDS))
def test_a_label_apart_from_its_value_names_it(kind, layout):
    value, label, name = WORDS[kind]
    assert value in found(kind, LAYOUTS[layout].format(label=label, name=name, value=value))


@pytest.mark.parametrize(
    "text",
    [
        "<p>Issued on <b>12.05.1984</b>. My date of birth is not on file.</p>",
        '<field name="dob"/><field name="issued"><value>12.05.1984</value></field>',
        '<field name="dob"><value></value></field><field name="issued"><value>12.05.1984</value></field>',
        "createPatientDob(7) at 12.05.1984",
        "getUserPassportNo();\n\n\nrelease 12.05.1984",
    ],
)
def test_a_label_of_another_value_names_none(text):
    assert found("date_of_birth", text) == []


@pytest.mark.parametrize("value", ["C01X00T47", "CFGHJKLM9", "L2J8XK7WZ", "NX0R2BCD1", "SPECI2014", "K1F3TMVW0"])
@pytest.mark.parametrize(
    "text", ["passport: {}", "Reisepassnummer {}", "name;passport;city\nEva;{};Graz", "my passport is {}"]
)
def test_a_passport_number_may_have_few_digits(text, value):
    assert found("passport", text.format(value)) == [value]


@pytest.mark.parametrize("value", ["12345/67/8901", "00123/19/1465"])
@pytest.mark.parametrize("text", ["prawo jazdy: {}", "driving licence {}", "licence_no,city\n{},Graz", "DL no. {}"])
def test_a_licence_number_may_have_slashes(text, value):
    assert found("driver_license", text.format(value)) == [value]


@pytest.mark.parametrize(
    "text", ["passport: CFGHJKLMN", "passport: TRAVELLER", "passport: expressly9", "pass RESULTS99"]
)
def test_a_word_is_no_passport_number(text):
    assert found("passport", f"{text}, 2 of 3") == []


@pytest.mark.parametrize("joint", ["\n", "\r\n", "\n\n", " "])
def test_a_joined_name_behind_any_end_of_line_ends_the_search(joint):
    """`$` also stands before the last line break, which once found the same name for ever."""
    assert found("passport", f"note{joint}aBc{joint}passportNumber: C01X00T47") == ["C01X00T47"]
