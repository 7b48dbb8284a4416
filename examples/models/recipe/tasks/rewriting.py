"""Dates and amounts, from the way people write them to one fixed form."""

from __future__ import annotations

from random import Random

from examples.models.recipe.tasks.base import Example, quoted
from examples.models.recipe.words import MONTHS, WEEKDAYS, city, person, words, year_month_day

ONES = words(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
    """
)
TENS = words("- - twenty thirty forty fifty sixty seventy eighty ninety")
CURRENCIES = (("dollars", "cents", "$"), ("euros", "cents", "€"), ("pounds", "pence", "£"))

ASK_DATE = (
    "Rewrite the date {x} as YYYY-MM-DD.",
    "Write {x} as YYYY-MM-DD.",
    "Convert {x} to YYYY-MM-DD.",
    "Rewrite this date as YYYY-MM-DD: {x}",
    "What is {x} in ISO format?",
    "{x} as YYYY-MM-DD, please.",
    "Give the date {x} in the form YYYY-MM-DD.",
    "Rewrite the date: {x}",
)
ASK_LONG_DATE = (
    "Write {x} in words.",
    "Write the date {x} in long form.",
    "Rewrite {x} as a long date.",
    "Spell out the date {x}.",
)
ASK_AMOUNT = (
    "Write {x} in digits.",
    "Rewrite {x} as a number.",
    "Rewrite the amount: {x}",
    "Convert {x} to digits.",
    "Write this amount in digits: {x}",
    "{x} in digits, please.",
    "Rewrite this amount in digits: {x}",
    "How do I write {x} in digits?",
)
ASK_SENTENCE = (
    "Rewrite the date in this sentence as YYYY-MM-DD: {x}",
    "Change the date to YYYY-MM-DD: {x}",
    "Rewrite this sentence with the date as YYYY-MM-DD: {x}",
)
SENTENCES = (
    "The meeting with {name} is on {date}.",
    "{name} was born in {city} on {date}.",
    "The invoice of {name} is due on {date}.",
    "On {date}, {name} moved to {city}.",
    "The train to {city} leaves on {date}.",
    "{name} signed the contract on {date}.",
    "We will open the shop in {city} on {date}.",
    "The exam takes place on {date} in {city}.",
)


def _ordinal(day: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th") if day // 10 != 1 else "th"
    return f"{day}{ending}"


def date_forms(year: int, month: int, day: int) -> list[str]:
    """The ways in which a date is written in prompts; the first is the most common one."""
    name = MONTHS[month - 1]
    return [
        f"{name} {day}, {year}",
        f"{day} {name} {year}",
        f"{name} {_ordinal(day)}, {year}",
        f"the {_ordinal(day)} of {name} {year}",
        f"{name[:3]} {day}, {year}",
        f"{day} {name[:3]} {year}",
    ]


def iso(year: int, month: int, day: int) -> str:
    """YYYY-MM-DD."""
    return f"{year:04d}-{month:02d}-{day:02d}"


def in_words(number: int) -> str:
    """A whole number below a million in English: 342 is 'three hundred and forty-two'."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = number % unit
    joint = " and " if rest < 100 else " "
    return f"{in_words(number // unit)} {name}" + (f"{joint}{in_words(rest)}" if rest else "")


def date(rng: Random) -> Example:
    """A date to YYYY-MM-DD, and at times the other way round."""
    parts = year_month_day(rng)
    form = rng.choice(date_forms(*parts)) if rng.random() < 0.6 else date_forms(*parts)[0]
    if rng.random() < 0.15:
        text, reply = rng.choice(ASK_LONG_DATE).format(x=iso(*parts)), date_forms(*parts)[0]
    else:
        text, reply = rng.choice(ASK_DATE).format(x=form), iso(*parts)
    if rng.random() < 0.08:
        text = text.replace(form, f"{rng.choice(WEEKDAYS)}, {form}")
    return Example(
        task="rewriting, date", prompt=text[0].upper() + text[1:], answer=reply, key=iso(*parts), final=reply
    )


def date_in_sentence(rng: Random) -> Example:
    """A whole sentence again, with its date changed."""
    parts = year_month_day(rng)
    form = rng.choice(date_forms(*parts)[:3])
    frame, name, place = rng.choice(SENTENCES), person(rng), city(rng)
    before, after = (frame.format(name=name, city=place, date=value) for value in (form, iso(*parts)))
    prompt = rng.choice(ASK_SENTENCE).format(x=quoted(before, rng))
    return Example(task="rewriting, date in a sentence", prompt=prompt, answer=after, key=iso(*parts), final=after)


def _written_amount(rng: Random, whole: int, part: int, names: tuple[str, str, str]) -> str:
    unit, small, _ = names
    unit = unit[:-1] if whole == 1 else unit
    number = in_words(whole) if rng.random() < 0.8 else str(whole)
    if not part:
        return f"{number} {unit}"
    pieces = in_words(part) if rng.random() < 0.5 else str(part)
    return f"{number} {unit}{rng.choice((' and ', ' '))}{pieces} {small}"


def amount(rng: Random) -> Example:
    """An amount of money in words to digits: 'twelve dollars and 50 cents' to '$12.50'."""
    whole = rng.randint(1, 99) if rng.random() < 0.5 else rng.randint(100, 9999)
    part = 0 if rng.random() < 0.35 else rng.randint(1, 99)
    names = rng.choice(CURRENCIES)
    name = "rewriting, amount" if whole < 100 else "rewriting, large amount"
    reply = f"{names[2]}{whole}.{part:02d}"
    text = rng.choice(ASK_AMOUNT).format(x=_written_amount(rng, whole, part, names))
    return Example(task=name, prompt=text[0].upper() + text[1:], answer=reply, key=reply[1:], final=reply)
