"""More sentences, labels and layouts that detectors may be tuned on: those of a half that was held out before."""

# ruff: noqa: E501  (layouts)

from __future__ import annotations

import html
import json
import random
from urllib.parse import quote

from benchmarks._cases import Layout, Turns, Words, camel, marked, person, snake

WORDS = {
    "password": Words(
        ("password", "user password", "Password", "pass", "db password", "root password", "Kennwort", "contraseña"),
        (
            "the password's {value}, don't tell anyone",
            "password = {value}",
            "I forgot whether my password was {value} or something else.",
            "Our shared password ({value}) must be rotated.",
            "user: ops / pass: {value}",
            "ALTER ROLE app WITH PASSWORD '{value}';",
            "sshpass -p '{value}' ssh ops@build",
            "Enter `{value}` as the password.",
            "postgres://app:{value}@db.internal/app",
            "New password -> {value}",
        ),
        ("And the password?", "Which password did you try?"),
    ),
    "key or token": Words(
        ("API token", "api-key", "auth token", "bearer token", "secret", "refresh token", "private key", "apikey"),
        (
            "Is the token {value} still valid?",
            "x-api-key: {value}",
            "Authorization: Token {value}",
            'client.connect(api_key="{value}")',
            "We leaked our access key {value} in a commit.",
            "https://api.example.com/v1/items?access_token={value}",
            "TOKEN={value} make deploy",
            "the refresh token was {value}",
        ),
        ("Please send me the token.", "What's the API key?"),
    ),
    "date of birth": Words(
        ("Date of Birth", "D.O.B.", "birthdate", "Birth Date", "geboren am", "fecha de nacimiento", "dob"),
        (
            "I was born {value}.",
            "Her date of birth: {value}; insured since 2010.",
            "Jane Doe (born {value}) applied twice.",
            "The patient's DOB is {value}",
            "date of birth is listed as {value}, which is wrong",
            "Happy birthday! You were born on {value}, right?",
        ),
        ("And your date of birth, please?", "Please tell me your birthday."),
    ),
    "passport": Words(
        (
            "Passport Number",
            "passport_no",
            "passport id",
            "Passport #",
            "travel document (passport)",
            "pasaporte",
            "passeport",
        ),
        (
            "Passport number {value} was reported as stolen.",
            "His passport, number {value}, is in the safe.",
            "passport: {value}",
            "We need a visa for the holder of passport No {value}.",
            "my passport no is {value} and I fly on Monday",
        ),
        ("Please enter your passport number.", "What does your passport say as its number?"),
    ),
    "driver's licence": Words(
        (
            "Driver's License Number",
            "driver licence",
            "drivers license",
            "driving license number",
            "DL",
            "Führerscheinnummer",
        ),
        (
            "Driver license: {value}",
            "I lost my driver's license, number {value}.",
            "DL# {value} came back clean.",
            "The driver license number {value} belongs to her.",
            "his driving licence number is {value}",
        ),
        ("Could you read me your driver's license number?", "Your driver's licence number, please."),
    ),
    "US SSN": Words(
        ("Social Security Number", "ssn", "SSN", "Soc. Sec. No.", "social security #", "taxpayer SSN"),
        (
            "SSN: {value}",
            "the last form had my social security number as {value}",
            "Employee SSN {value}, start date in May.",
            "Please verify SSN#{value} with the agency.",
            "Her Social Security number ({value}) was used twice.",
        ),
        ("May I have your social security number?", "And your SSN?"),
    ),
    "phone": Words(
        ("Phone", "cell", "mobile number", "contact number", "Telefon", "téléphone", "work phone", "call back number"),
        (
            "Ring me on {value}.",
            "phone: {value}",
            "Text {value} when you arrive.",
            "Invoice 2024-118: call {value} if anything is unclear.",
            "Her cell is {value}, his is unknown.",
            "Fax the form to {value}",
            "you can phone us on {value} from Monday to Friday",
        ),
        ("What's the best number to call?", "Your mobile number, please?"),
    ),
    "medical record": Words(
        ("MRN", "Medical Record No", "medical record", "patient no", "Patient-ID", "chart number", "mrn"),
        (
            "MRN: {value}",
            "Discharge summary for MRN {value}",
            "chart number {value} is missing a signature",
            "Medical record #{value} was opened by mistake.",
            "the patient (MRN {value}) is stable",
        ),
        ("Do you have the MRN?", "Which patient number is it?"),
    ),
    "email": Words(
        ("Email", "mail", "user_email", "e-mail address", "reply-to", "courriel"),
        (
            "Is {value} still in use?",
            "From: Jane <{value}>",
            "mailto:{value}",
            "I wrote to {value}, no answer.",
            "please invite '{value}'",
        ),
        ("Which email did you sign up with?", "Your e-mail, please?"),
    ),
    "IP address": Words(
        ("ip_address", "IP", "source ip", "server", "remote_addr", "peer"),
        (
            "{value} keeps hammering our login page.",
            "ssh root@{value} hangs",
            "My router has {value} as its IP.",
            "traceroute to {value} stops after three hops",
            "release 4 is deployed on {value}",
        ),
        ("What IP does it have?", "Which IP address shall I unblock?"),
    ),
    "IBAN": Words(
        ("iban", "bank account number", "Account (IBAN)", "payout account"),
        ("IBAN {value}", "The refund goes to {value}, right?", "pay to account {value} by Friday", "Konto: {value}"),
        ("And your IBAN?", "To which account?"),
    ),
    "payment card": Words(
        ("Card Number", "credit card number", "cc number", "Mastercard", "debit card"),
        (
            "I paid with {value}.",
            "card no. {value} was declined",
            "Is {value} a valid credit card number?",
            "My Amex or Visa, {value}, is lost.",
        ),
        ("The card number, please.", "What card do you use?"),
    ),
    "national id": Words(
        (),
        (
            "his {label} is {value}",
            "{label}: {value}",
            "We filed it under {label} {value}.",
            "Is {value} a valid {label}?",
        ),
        ("And the {label}?", "Please give me your {label}."),
    ),
}


def prose(rng: random.Random, words: Words, label: str, value: str) -> Turns:
    """One sentence between others, of which one has a number of its own."""
    text = rng.choice(words.sentences).format(label=label, value=marked(value))
    before = rng.choice(["", "Hi team,\n\n", "Ticket 58213. ", "I ordered 3 items on 12 May. "])
    after = rng.choice(["", " Thanks!", " What now?", "\n\nRegards,\nEva", " It worked with version 2.1 before."])
    return [("user", before + text + after)]


def chat(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """The value in the first turn, in a half sentence; the request goes on about something else."""
    text = rng.choice(
        [f"here you go, {label} = {marked(value)}", f"{label}: {marked(value)} ok?", f"its {marked(value)} ({label})"]
    )
    return [("user", text), ("assistant", "Thank you, noted."), ("user", "Now write the letter, please.")]


def key_and_value(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """JSON where the word is the value of another member, or the name of a member further up."""
    record, written = person(rng), json.dumps(value, ensure_ascii=False)[1:-1]
    other = json.dumps({"key": "city", "value": record["city"]})
    style = rng.randrange(3)
    if style == 0:
        pair = f'{{"key": {json.dumps(snake(label))}, "value": "{marked(written)}", "enabled": true}}'
        return [("user", f"Fix this collection: [{other}, {pair}]")]
    if style == 1:
        text = f'{{\n  "id": {record["id"]},\n  "profile": {{\n    "{camel(label)}": "{marked(written)}",\n    "city": "Graz"\n  }}\n}}'
        return [("user", text)]
    return [("user", f'{{"name": "{snake(label)}", "type": "string", "value": "{marked(written)}"}}')]


def other_table(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A table with semicolons, tabs or JSON columns; the header says what the cells are."""
    records = [person(rng) for _ in range(4)]
    row, style = rng.randrange(4), rng.randrange(3)
    if style == 2:
        written = json.dumps(value, ensure_ascii=False)[1:-1]
        rows = [f'["{r["id"]}", "{marked(written) if n == row else ""}", "{r["city"]}"]' for n, r in enumerate(records)]
        return [("user", f'{{"columns": ["id", "{snake(label)}", "city"], "rows": [{", ".join(rows)}]}}')]
    between = ";" if style == 0 else "\t"
    quoted = f'"{marked(value)}"' if between in value else marked(value)
    rows = [between.join([r["id"], r["name"], quoted if n == row else "", r["status"]]) for n, r in enumerate(records)]
    return [("user", "\n".join([between.join(["id", "name", label, "status"]), *rows]) + "\n\nSort it by name.")]


def other_form(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A form with leaders, with brackets, in bold, as a list or with the value on the next line."""
    record = person(rng)
    style = rng.choice(["{} ........ {}", "[{}] {}", "**{}:** {}", "- {}: {}", "{}:\n{}", "{}\t: {}", "* {} - {}"])
    lines = [style.format(name.capitalize(), text) for name, text in record.items()]
    lines.insert(rng.randint(1, 5), style.format(label, marked(value)))
    return [("user", "\n".join(lines))]


def other_log(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A line of logfmt, of JSON, of syslog or of a URL's query."""
    escaped = json.dumps(value, ensure_ascii=False)[1:-1]
    style = rng.randrange(4)
    lines = (
        f'time=2025-11-02T10:11:12Z level=warn msg="login failed" {snake(label)}="{marked(escaped)}" attempt=3',
        f'{{"level":"error","ts":1762077072.31,"msg":"rejected","{snake(label)}":"{marked(escaped)}","caller":"auth.go:88"}}',
        f"Nov  2 10:11:12 web1 app[2311]: request failed: {label}: {marked(value)}",
        f"GET /v1/find?page=2&{snake(label)}={marked(quote(value, safe=''))}&sort=asc HTTP/1.1",
    )
    return [("user", f"What does this mean?\n\n```\n{lines[style]}\n```")]


def attribute(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """An attribute of XML, an input of HTML, a list of definitions, or a row of a table."""
    record, written = person(rng), marked(html.escape(value))
    name = snake(label)
    return [
        (
            "user",
            rng.choice(
                [
                    f'<user id="{record["id"]}" {name}="{written}" city="{record["city"]}"/>',
                    f'<input type="text" name="{name}" value="{written}">',
                    f"<dl><dt>{label}</dt><dd>{written}</dd><dt>City</dt><dd>Graz</dd></dl>",
                    f"<tr><td>{label}</td><td>{written}</td></tr>",
                    f"<table><tr><th>id</th><th>{label}</th></tr><tr><td>{record['id']}</td><td>{written}</td></tr></table>",
                ]
            ),
        )
    ]


def settings(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """TOML, INI, a shell's variables, properties, and YAML with names and values in a list."""
    record, name = person(rng), snake(label)
    quoted = f'"{marked(json.dumps(value, ensure_ascii=False)[1:-1])}"'
    return [
        (
            "user",
            rng.choice(
                [
                    f"[user]\nid = {record['id']}\n{name} = {quoted}\ncity = 'Graz'\n",
                    f"[default]\nid={record['id']}\n{name}={marked(value)}\n",
                    f"export APP_{name.upper()}={quoted}\nexport CITY=Graz\n",
                    f"user.{camel(label)}={marked(value)}\nuser.city=Graz\n",
                    f"env:\n  - name: {name.upper()}\n    value: {quoted}\n  - name: CITY\n    value: Graz\n",
                ]
            ),
        )
    ]


def other_markdown(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A table whose first column is the header, a table without edges, or one of several columns with the value last."""
    record = person(rng)
    written = marked(value.replace("|", "\\|"))
    tables = (
        f"| Field | Value |\n|:--|:--|\n| id | {record['id']} |\n| {label} | {written} |\n| city | {record['city']} |",
        f"id | {label}\n---|---\n{record['id']} | {written}\n",
        f"| name | order | city | {label} |\n|---|---|---|---|\n| {record['name']} | {record['order']} | {record['city']} | {written} |",
    )
    return [("user", rng.choice(tables) + "\n\nTranslate the table.")]


def other_question(rng: random.Random, words: Words, label: str, value: str) -> Turns:
    """The question is the assistant's, or the system says what is asked; the answer has a word or two around the value."""
    asked = rng.choice(words.questions).format(label=label)
    answer = rng.choice(["{}", "it's {}", "Sure: {}", "{} thanks", "{}.", "ok {}"]).format(marked(value))
    turns = [("assistant", asked), ("user", answer)]
    if rng.random() < 0.3:
        turns += [("assistant", "Thank you. Anything else?"), ("user", "No.")]
    return turns


LAYOUTS: dict[str, Layout] = {
    "prose": prose,
    "chat": chat,
    "JSON": key_and_value,
    "CSV": other_table,
    "form": other_form,
    "log": other_log,
    "XML": attribute,
    "YAML": settings,
    "Markdown table": other_markdown,
    "question before": other_question,
}
