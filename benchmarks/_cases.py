"""Cases for recall: kinds of values, and how a layout becomes a request of which the place of the value is known.

A layout writes a value with the word beside it into messages, between the marks START and END. Sentences, labels and
layouts to tune on are in the modules `_tuning*`, others in `_heldout`; their values differ too. A layout is a function,
or is made of templates, which are easier to write.
"""

from __future__ import annotations

import csv
import html
import io
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

from benchmarks import _numbers as numbers
from benchmarks import _values as values

START, END = "\ue000", "\ue001"
"""Stand around the value while a text is laid out."""
Turns = list[tuple[str, str]]
"""Role and text of each message."""


@dataclass(frozen=True, slots=True)
class Words:
    """How people write a kind of value down: in texts `{label}` and `{value}` are filled in."""

    labels: tuple[str, ...]
    sentences: tuple[str, ...] = ("My {label} is {value}.",)
    questions: tuple[str, ...] = ("What is your {label}?",)


Layout = Callable[[random.Random, Words, str, str], Turns]
"""Writes a marked value under a label."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: its generator, the detectors of which one must find it, and the goal for recall."""

    name: str
    draw: Callable[[random.Random], str] | None
    detectors: tuple[str, ...]
    goal: float | None = None


KINDS = (
    Kind("password", values.password, ("credential",), 0.9),
    Kind("key or token", values.token, ("credential",)),
    Kind("date of birth", values.birthday, ("date_of_birth",), 0.95),
    Kind("passport", numbers.passport, ("passport",), 0.98),
    Kind("driver's licence", numbers.driver_license, ("driver_license",), 0.98),
    Kind("US SSN", numbers.us_ssn, ("us_ssn",), 0.98),
    Kind("phone", numbers.phone, ("phone",), 0.98),
    Kind("medical record", values.medical_record, ("medical_record",)),
    Kind("email", values.email, ("email",)),
    Kind("IP address", values.ip_address, ("ip_address",)),
    Kind("IBAN", numbers.iban, ("iban",)),
    Kind("payment card", numbers.payment_card, ("payment_card",)),
    Kind("national id", None, ("national_id", "cn_resident_id", "medical_record")),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One request, and where its value is: the characters *start* to *end* (exclusive) of message *place*."""

    kind: Kind
    layout: str
    turns: Turns = field(repr=False)
    place: int
    start: int
    end: int


def cases(
    kind: Kind,
    words: Words,
    layouts: Mapping[str, Layout],
    count: int,
    seed: str,
    draw: Callable[[random.Random], str] | None = None,
) -> Iterator[Case]:
    """*count* cases, every layout as often as another; the same *seed* makes the same cases.

    *draw* makes other values than those of *kind*.
    """
    rng = random.Random(f"{seed} {kind.name}")
    names = list(layouts)
    for number in range(count):
        name = names[number % len(names)]
        label, value = _drawn(rng, kind, words)
        value = draw(rng) if draw is not None else value
        yield _case(kind, name, layouts[name](rng, words, label, value))


def _drawn(rng: random.Random, kind: Kind, words: Words) -> tuple[str, str]:
    if kind.draw is not None:
        return rng.choice(words.labels), kind.draw(rng)
    labels, draw = numbers.NATIONAL[rng.choice(sorted(numbers.NATIONAL))]
    return rng.choice(labels), draw(rng)


def _case(kind: Kind, name: str, turns: Turns) -> Case:
    place = next(i for i, (_, text) in enumerate(turns) if START in text)
    start = turns[place][1].index(START)
    end = turns[place][1].index(END) - 1
    return Case(
        kind, name, [(role, text.replace(START, "").replace(END, "")) for role, text in turns], place, start, end
    )


def marked(value: str, written: Callable[[str], str] = str) -> str:
    """*value* between the marks, as a format writes it."""
    return f"{START}{written(value)}{END}"


def snake(label: str) -> str:
    """A label as a name in a file: `date_of_birth`."""
    return re.sub(r"\W+", "_", re.sub("['.]", "", label.lower())).strip("_")


def camel(label: str) -> str:
    """A label as a name in JSON: `dateOfBirth`."""
    first, *rest = snake(label).split("_")
    return first + "".join(word.capitalize() for word in rest)


def person(rng: random.Random) -> dict[str, str]:
    """What stands beside a value in a record; none of it is personal by format."""
    return {
        "id": str(rng.randint(1, 9999)),
        "name": f"{rng.choice(['Jane', 'Omar', 'Li', 'Eva'])} {rng.choice(['Doe', 'Haddad', 'Wei', 'Berg'])}",
        "order": str(rng.randint(10_000, 99_999)),
        "city": rng.choice(["Lyon", "Graz", "Porto", "Leeds"]),
        "status": rng.choice(["active", "open", "closed"]),
    }


def _cell(value: str) -> str:
    """A field of CSV, in quotes where it has to be."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([value])
    return buffer.getvalue()


_WRITTEN: dict[str, Callable[[str], str]] = {
    "": str,
    "json": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "html": html.escape,
    "csv": _cell,
    "sql": lambda text: text.replace("'", "''"),
    "bars": lambda text: text.replace("|", "\\|"),
    "single": lambda text: text.replace("\\", "\\\\").replace("'", "\\'"),
    "percent": lambda text: quote(text, safe=""),
    "form": quote_plus,
}
_NAMED: dict[str, Callable[[str], str]] = {
    "": str,
    "snake": snake,
    "camel": camel,
    "kebab": lambda text: snake(text).replace("_", "-"),
    "upper": lambda text: snake(text).upper(),
    "title": lambda text: text[:1].upper() + text[1:],
}


@dataclass(frozen=True, slots=True)
class _Slot:
    """What a template shows in the form that the name behind its colon says, as in `{value:json}`."""

    text: str
    forms: Mapping[str, Callable[[str], str]]
    marks: tuple[str, str] = ("", "")

    def __format__(self, form: str) -> str:
        return self.forms[form](self.text).join(self.marks)


def templates(*texts: str) -> Layout:
    """A layout of *texts*, one of which is drawn for each case.

    `{value}`, `{value:json}` (`html`, `csv`, `sql`, `bars`, `single`, `percent`, `form`), `{label}`, `{label:snake}`
    (`camel`, `kebab`, `upper`, `title`), `{sentence}` and `{question}` of the kind, and `{id}`, `{name}`, `{order}`,
    `{city}` and `{status}` of a record are filled in. A line of `---` begins the next turn; the last one is the user's.
    """

    def layout(rng: random.Random, words: Words, label: str, value: str) -> Turns:
        named, shown = _Slot(label, _NAMED), _Slot(value, _WRITTEN, (START, END))
        sentence = rng.choice(words.sentences).format(label=named, value=shown)
        question = rng.choice(words.questions).format(label=named)
        text = rng.choice(texts).format(label=named, value=shown, sentence=sentence, question=question, **person(rng))
        turns = text.split("\n---\n")
        return [(("user", "assistant")[place % 2], turn) for place, turn in enumerate(reversed(turns))][::-1]

    return layout
