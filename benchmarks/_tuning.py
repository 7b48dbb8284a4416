"""Sentences, labels and layouts for recall that detectors may be tuned on."""

# ruff: noqa: E501  (layouts)
from __future__ import annotations

import csv
import html
import io
import json
import random

from benchmarks._cases import Layout, Turns, Words, camel, marked, person, snake

WORDS = {
    "password": Words(
        ("password", "pw", "passwd", "Passwort", "passphrase", "login password", "pwd"),
        (
            "My password is {value} and I cannot log in.",
            'The password for the admin account is "{value}".',
            "I changed the password to {value} yesterday.",
            "Use the passphrase {value} to unlock the disk.",
            "Log in as jane, pw: {value}",
            "mysql: CREATE USER jane IDENTIFIED BY '{value}';",
            "<password>{value}</password>",
            "The wifi password here is {value}!",
        ),
        ("What is your password?", "Please type your password:"),
    ),
    "key or token": Words(
        ("api key", "token", "access token", "secret key", "client secret", "API key"),
        (
            "My api key is {value}, why is it refused?",
            "Authorization: Zoho-oauthtoken {value}",
            "curl -H 'Authorization: Bearer {value}' https://api.example.com/v1/me",
            "Here is the token: {value}",
            "Use api key {value} for the staging system.",
            "export API_KEY={value}",
        ),
        ("Which API key do you use?", "Can you paste the access token?"),
    ),
    "date of birth": Words(
        ("date of birth", "DOB", "birth date", "birthday", "born", "Geburtsdatum"),
        (
            "She was born on {value} in Lyon.",
            "My date of birth is {value}.",
            "Patient, DOB {value}, presents with a cough.",
            "born {value}, two children",
            "His birthday is {value}, the same as mine.",
        ),
        ("What is your date of birth?", "When were you born?"),
    ),
    "passport": Words(
        ("passport number", "passport", "passport no", "Passport No.", "Reisepassnummer"),
        (
            "My passport number is {value}.",
            "I travel with passport {value}, valid until next year.",
            "Please book it with passport no. {value} for Ms Berg.",
            "The number of my passport is {value}.",
        ),
        ("What is your passport number?", "Could you give me the passport number?"),
    ),
    "driver's licence": Words(
        ("driver's license", "driver license number", "driving licence", "DLN", "DL number", "licence number"),
        (
            "My driver's license number is {value}.",
            "Driving licence {value}, issued in 2019.",
            "DLN {value} expires in May.",
            "She showed her driver's licence ({value}) at the desk.",
        ),
        ("What is your driver's license number?", "May I have your driving licence number?"),
    ),
    "US SSN": Words(
        ("SSN", "social security number", "Social Security No.", "ssn", "SSN number"),
        (
            "My SSN is {value}.",
            "His social security number: {value}, please update it.",
            "SS# {value} was rejected by the form.",
            "The taxpayer with social security number {value} moved away.",
        ),
        ("What is your SSN?", "Please confirm your social security number."),
    ),
    "phone": Words(
        ("phone", "phone number", "mobile", "tel", "Tel.", "fax", "telephone"),
        (
            "Call me at {value} after six.",
            "My phone number is {value}.",
            "Tel. {value}, ask for Eva.",
            "You can reach him on his mobile, {value}.",
            "Order 48213 is late, my phone is {value}.",
        ),
        ("What is your phone number?", "Which number can we call you on?"),
    ),
    "medical record": Words(
        ("medical record number", "MRN", "patient ID", "patient number", "hospital number"),
        (
            "Patient with MRN {value} was admitted.",
            "The medical record number is {value}.",
            "Please look up patient ID {value} for me.",
            "Her hospital number ({value}) is on the bracelet.",
        ),
        ("What is the medical record number?", "What is your patient ID?"),
    ),
    "email": Words(
        ("email", "e-mail", "email address", "E-Mail", "contact"),
        ("Write to {value} please.", "My email is {value}.", "Contact: {value} (sales)", "cc {value}, bcc nobody"),
        ("What is your email address?", "Where can I write to you?"),
    ),
    "IP address": Words(
        ("ip", "IP address", "client ip", "remote address", "host"),
        (
            "The server at {value} does not answer.",
            "Blocked: login from IP {value} at night.",
            "ping {value} works, ssh does not",
            "My IP address is {value}.",
        ),
        ("What is your IP address?", "From which address did you connect?"),
    ),
    "IBAN": Words(
        ("IBAN", "account", "bank account"),
        ("Please transfer it to {value}.", "My IBAN is {value}.", "Account {value} was charged twice."),
        ("What is your IBAN?", "Which account shall we refund?"),
    ),
    "payment card": Words(
        ("card number", "credit card", "card", "Visa card", "payment card"),
        ("My card number is {value}.", "Charge the credit card {value} again.", "Card {value}, valid until 04/29"),
        ("What is your card number?", "Which credit card shall we charge?"),
    ),
    "national id": Words(
        (),
        ("My {label} is {value}.", "Here is the {label}: {value}", "{label} {value}, please check it.", "({label}: {value})"),
        ("What is your {label}?", "Please enter the {label}."),
    ),
}  # fmt: skip


def prose(rng: random.Random, words: Words, label: str, value: str) -> Turns:
    """One sentence, alone or between others."""
    text = rng.choice(words.sentences).format(label=label, value=marked(value))
    before = rng.choice(["", "Hello, I need help. ", "Sorry to write again.\n\n"])
    return [("user", before + text + rng.choice(["", " Can you help?", "\nBest regards"]))]


def chat(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """The value in the last turn of three, in a sentence with its word."""
    text = rng.choice(
        [f"my {label}: {marked(value)}", f"sure, the {label} is {marked(value)}", f"{label} {marked(value)}"]
    )
    return [("user", "I cannot get into my account."), ("assistant", "I see. Tell me more."), ("user", text)]


def json_record(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A member of an object, between others."""
    fields = [(name, json.dumps(text)) for name, text in person(rng).items()]
    name = rng.choice([snake, camel])(label)
    written = marked(value, lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
    fields.insert(rng.randint(1, len(fields)), (name, f'"{written}"'))
    return [("user", "{" + ", ".join(f'"{key}": {text}' for key, text in fields) + "}")]


def csv_table(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A cell under a header; the value is in one of three rows."""
    rows = [person(rng) for _ in range(3)]
    column, row = rng.randint(0, 4), rng.randrange(3)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*list(rows[0])[:column], snake(label), *list(rows[0])[column:]])
    for number, each in enumerate(rows):
        cells = list(each.values())
        writer.writerow([*cells[:column], marked(value) if number == row else "", *cells[column:]])
    return [("user", "Clean this up:\n" + buffer.getvalue())]


def form(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A line of a form."""
    lines = [f"{name.capitalize()}: {text}" for name, text in person(rng).items()]
    lines.insert(rng.randint(1, 5), f"{label[:1].upper()}{label[1:]}: {marked(value)}")
    return [("user", "\n".join(lines))]


def log_line(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A pair in a line of a log; values with spaces are quoted."""
    quoted = f'"{marked(value)}"' if " " in value else marked(value)
    line = f"2025-11-0{rng.randint(1, 9)} 12:00:0{rng.randint(0, 9)},123 INFO app.views user=jane {snake(label)}={quoted} status=200"
    return [("user", f"Why does this fail?\n2025-11-01 11:59:58,001 DEBUG start\n{line}\n")]


def xml_element(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """The text of an element."""
    record = person(rng)
    inner = f"<id>{record['id']}</id><{snake(label)}>{marked(value, html.escape)}</{snake(label)}><city>{record['city']}</city>"
    return [("user", f"<customer>{inner}</customer>")]


def yaml_record(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A key of a mapping; values with characters of YAML are quoted."""
    record = person(rng)
    plain = value[0].isalnum() and not set(value) & set(":#{}[],&*?|<>=!%@`'\"\\")
    written = marked(value) if plain else "'" + marked(value, lambda text: text.replace("'", "''")) + "'"
    return [("user", f"user:\n  id: {record['id']}\n  {snake(label)}: {written}\n  city: {record['city']}\n")]


def markdown_table(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """A cell under the header of a table."""
    rows = [person(rng) for _ in range(2)]
    written = marked(value, lambda text: text.replace("|", "\\|"))
    table = f"| id | {label} | city |\n|---|---|---|\n"
    cells = [written, ""] if rng.random() < 0.5 else ["", written]
    return [
        (
            "user",
            table + "\n".join(f"| {r['id']} | {cell} | {r['city']} |" for r, cell in zip(rows, cells, strict=True)),
        )
    ]


def question(rng: random.Random, words: Words, label: str, value: str) -> Turns:
    """The word is in the turn before, the value stands alone."""
    asked = rng.choice(words.questions).format(label=label)
    return [("user", "I want to change my data."), ("assistant", asked), ("user", marked(value))]


LAYOUTS: dict[str, Layout] = {
    "prose": prose,
    "chat": chat,
    "JSON": json_record,
    "CSV": csv_table,
    "form": form,
    "log": log_line,
    "XML": xml_element,
    "YAML": yaml_record,
    "Markdown table": markdown_table,
    "question before": question,
}
