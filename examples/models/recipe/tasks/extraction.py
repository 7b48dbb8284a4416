"""Fields of a text as JSON; every value is copied as it stands."""

from __future__ import annotations

import json
import re
from random import Random

from examples.models.recipe.tasks.base import Example, listed, quoted
from examples.models.recipe.tasks.rewriting import date_forms, iso
from examples.models.recipe.words import PRODUCTS, WEEKDAYS, city, company, invented, person, year_month_day

SHORT = (
    "{name} paid {amount} on {date}.",
    "{name} lives in {city}.",
    "{name} was born in {city} on {date}.",
    "{name} sent {amount} to {company}.",
    "On {date}, {name} moved to {city}.",
    "{company} in {city} was founded on {date}.",
    "{name} works for {company}.",
    "{name} bought {quantity} {product} for {amount}.",
    "The {product} cost {amount} in {city}.",
    "Please call {name} on {date} at {time}.",
    "My name is {name} and I live in {city}.",
    "{name} flies to {city} on {date}.",
    "Hi, this is {name} from {company}.",
    "{company} charged {name} {amount} on {date}.",
    "{name} paid {amount} for the {product}.",
    "The meeting with {name} is in {city} on {date}.",
    "{name} transferred {amount} to {company} on {date}.",
    "Send the {product} to {name} in {city}.",
    "{name} earned {amount} in {city}.",
)
LONG = (
    "On {date}, {name} from {city} ordered {quantity} {product} for {amount}.",
    "{name} of {company} in {city} paid {amount} on {date}.",
    "Invoice {number}: {company} owes {name} {amount}, due on {date}.",
    "{name} will arrive in {city} on {date} at {time} to meet {company}.",
    "Order {number} of {name}: {quantity} {product}, {amount}, delivery to {city} on {date}.",
    "{company} sold {quantity} {product} to {name} in {city} for {amount} on {date}.",
    "Contact {name} at {email} about the {product} for {company} in {city}.",
    (
        "Dear {company}, I ordered {quantity} {product} on {date} and paid {amount}. Order "
        "{number}. Regards, {name}, {city}."
    ),
    "{name} ({email}) booked a table at {company} in {city} for {date} at {time}.",
    (
        "Hello, my name is {name}. I live in {city} and on {date} I bought {quantity} {product} "
        "from {company} for {amount}."
    ),
    "Receipt {number}. {company}, {city}. {quantity} {product}: {amount}. Paid by {name} on {date} at {time}.",
    (
        "{name} transferred {amount} to {company} on {date}. The payment has the number {number} "
        "and the address is {email}."
    ),
)
ASK = (
    "Extract {fields} as JSON: {text}",
    "Extract {fields} as JSON: {text}",
    "Extract the {fields} as JSON: {text}",
    "{text}\n\nExtract {fields} as JSON.",
    "Return JSON with {fields}: {text}",
    "Extract the fields {fields} as JSON from this text: {text}",
    "Give me {fields} as JSON. {text}",
    "Extract {fields} as JSON.\n\n{text}",
    "Find {fields} in this text and answer in JSON: {text}",
    "Text: {text}\nExtract as JSON: {fields}",
)
ASK_ALL = (
    "Extract the fields as JSON: {text}",
    "Extract all fields as JSON: {text}",
    "Turn this into JSON: {text}",
    "{text}\n\nExtract the fields as JSON.",
)
FIELD = re.compile(r"\{(\w+)\}")


def _amount(rng: Random) -> str:
    whole = rng.choice((rng.randint(2, 99), rng.randint(100, 999), rng.randint(1000, 9999)))
    number = f"{whole}.{rng.randint(0, 99):02d}" if rng.random() < 0.4 else str(whole)
    return rng.choice(
        (f"${number}", f"${number}", f"€{number}", f"{number} euros", f"{number} dollars", f"{number} USD")
    )


def _date(rng: Random) -> str:
    parts = year_month_day(rng)
    forms = [*date_forms(*parts)[:3], date_forms(*parts)[0], iso(*parts), rng.choice(WEEKDAYS)]
    return rng.choice(forms)


def _email(rng: Random, first: str, last: str) -> str:
    who = rng.choice((first, last, f"{first[0]}.{last}"))
    return f"{who}@{invented(rng).lower()}.{rng.choice(('com', 'org', 'net'))}"


def values(rng: Random) -> dict[str, str]:
    """One value for every field that a text can mention."""
    name = person(rng)
    first, last = name.lower().split(" ")
    return {
        "name": name,
        "city": city(rng),
        "company": company(rng),
        "amount": _amount(rng),
        "date": _date(rng),
        "product": rng.choice(PRODUCTS),
        "quantity": str(rng.randint(2, 99)),
        "time": f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}",
        "number": f"{rng.choice('ABCDEFGHKMPRST')}{rng.randint(100, 99999)}",
        "email": _email(rng, first, last),
    }


def _wanted(rng: Random, fields: list[str], most: int) -> list[str]:
    chosen = rng.sample(fields, rng.randint(max(1, min(most - 2, len(fields))), min(most, len(fields))))
    return chosen if rng.random() < 0.3 else [field for field in fields if field in chosen]


def _example(rng: Random, task: str, frame: str, most: int) -> Example:
    known = values(rng)
    fields = list(dict.fromkeys(FIELD.findall(frame)))
    text = frame.format(**known)
    asks_all = len(fields) <= most and rng.random() < 0.2
    wanted = fields if asks_all else _wanted(rng, fields, most)
    ask = rng.choice(ASK_ALL if asks_all else ASK)
    prompt = ask.format(fields=listed(wanted) if rng.random() < 0.75 else ", ".join(wanted), text=quoted(text, rng))
    reply = json.dumps({field: known[field] for field in wanted}, ensure_ascii=False)
    return Example(
        task=task, prompt=prompt, answer=reply, key="|".join(known[field] for field in sorted(fields)), final=reply
    )


def few_fields(rng: Random) -> Example:
    """One to three fields of one short sentence."""
    return _example(rng, "extraction, 1-3 fields", rng.choice(SHORT), 3)


def many_fields(rng: Random) -> Example:
    """Four to six fields of a longer text."""
    return _example(rng, "extraction, 4-6 fields", rng.choice(LONG), 6)
