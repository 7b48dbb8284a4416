"""Prompts of ten kinds of task that each name one private value, and the shapes of stand-ins that may take its place."""

# ruff: noqa: E501, SIM905  (texts)
from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from benchmarks import _numbers, _values
from hybrid_llm.router.privacy.pseudonyms.notation import BASE32, type_of

TASKS = {
    "mail": (
        "Write a short mail to our supplier that tells them the new {what} of our client: {value}.",
        "Write an email of two sentences to Jordan. Ask whether the {what} {value} is still right.",
        "Draft a reply to the customer: we received the order, and we noted {value} as the {what}.",
    ),
    "summary": (
        "Summarise in one sentence: On Monday the client called about a parcel that had not come. The client gave {value} as {what}, and we promised to send a new one.",
        "Give the key points of this note in one sentence. The visit took ten minutes. The {what} was changed to {value}. Nothing else was discussed.",
        "Shorten this message: Hello, I hope you are well. I am writing because my {what} has changed, it is {value} from now on, so please use that one. Thanks a lot and best wishes.",
    ),
    "translation": (
        "Translate into French: My {what} is {value}. Please confirm it.",
        "Translate into German: We noted the {what} {value}. Thank you for your order.",
        "Translate into Spanish: Is {value} still your {what}?",
    ),
    "table": (
        "Make a Markdown table with the columns Field and Value from this: order 4411, {what} {value}, status open.",
        "Write as a Markdown table with one row: item lamp, price 20, {what} {value}.",
        "Put these into a table with two columns: city Oslo; {what} {value}; tickets 2.",
    ),
    "json": (
        "Write as one JSON object with the keys order, {key} and status: order 4411, {what} {value}, status open.",
        "Convert to JSON: {what}: {value}; language: English; active: yes.",
        "Extract the {what} as JSON with the key {key}: The client said that {value} is the {what} to use.",
    ),
    "code": (
        "Write one line of Python that assigns the {what} {value} to the variable {key} as a string.",
        'Write a Python dictionary for a client with the keys "order" (4411) and "{key}" ({value}).',
        "Write an SQL statement that sets the column {key} to '{value}' in the table clients where id is 7.",
    ),
    "chat": (
        "Hi! My {what} is {value}. Please repeat it so that I know you have it.",
        "My {what} is {value}. What is my {what}?",
        "I told my friend that my {what} is {value}. What did I tell my friend?",
    ),
    "list": (
        "Make a list with one bullet per fact: the order is 4411, the {what} is {value}, the status is open.",
        "List the steps to tell a colleague that the {what} is now {value}.",
        "Write a numbered list of these: buy milk; check the {what} {value}; call the office.",
    ),
    "form": (
        "Fill in the form.\nFacts: the order is 4411 and the {what} is {value}.\nForm:\nOrder:\n{What}:",
        "Complete this form from the note. Note: {value} is the {what} of the client, who lives in Oslo.\nCity:\n{What}:",
        "Fill in the blank with the fact. Fact: the {what} is {value}.\nThe {what} of the client is ____.",
    ),
    "rewriting": (
        "Rewrite politely: Send it now! My {what} is {value}, as I said before!",
        "Correct the spelling: I has told you that my {what} are {value}, pleese use him.",
        "Rewrite in formal English: hey, just use {value} as the {what}, ok?",
    ),
}
"""Kind of task -> prompts."""

_CONSONANTS, _VOWELS = "BDFGKLMNPRSTVZ", "AEIOU"


def _from(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choices(alphabet, k=length))


def _spoken(rng: random.Random, syllables: int = 3) -> str:
    return "".join(_from(rng, _CONSONANTS, 1) + _from(rng, _VOWELS, 1) for _ in range(syllables))


_PEOPLE = "Maria Ahmed Olga Pierre Lucia Hans Sofia Kenji Priya Tomas Ingrid Carlos Fatima Noah Emma".split()
_FAMILIES = "Garcia Chen Khan Ivanova Dupont Rossi Mueller Silva Tanaka Patel Novak Larsen Lopez Ali Smith".split()
_STREETS = "Mill Lane,High Street,Station Road,Park Avenue,Church Row,Garden Walk,Bridge Street".split(",")
_CITIES = "Leeds,Bristol,Graz,Lyon,Porto,Turku,Ghent,Malmo".split(",")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of private value."""

    detector: str
    """The name that detectors have for it, which gives the pseudonym's type."""
    what: str
    """How people call it."""
    value: Callable[[random.Random], str]
    realistic: Callable[[random.Random], str]
    """A stand-in that reads as such a value and can be nobody's."""


KINDS = {
    "email": Kind("email", "e-mail address", _values.email, lambda rng: f"{_spoken(rng).lower()}{rng.randrange(10, 99)}@example.com"),
    "phone": Kind("phone", "phone number", _numbers.phone, lambda rng: f"+1 {rng.randrange(201, 989)} 555 01{rng.randrange(100):02d}"),
    "person": Kind("person", "full name", lambda rng: f"{rng.choice(_PEOPLE)} {rng.choice(_FAMILIES)}", lambda rng: f"{_spoken(rng, 2).capitalize()} {_spoken(rng).capitalize()}"),
    "iban": Kind("iban", "IBAN", _numbers.iban, lambda rng: "XX00 " + " ".join(_from(rng, string.digits, 4) for _ in range(4))),
    "record": Kind("medical_record", "patient number", lambda rng: f"{rng.randrange(100, 999)}-{rng.randrange(10, 99)}-{rng.randrange(10, 99)}", lambda rng: f"X{_from(rng, string.digits, 7)}"),
    "address": Kind("location", "street address", lambda rng: f"{rng.randrange(2, 99)} {rng.choice(_STREETS)}, {rng.choice(_CITIES)}", lambda rng: f"{rng.randrange(2, 99)} {_spoken(rng).capitalize()} Street, {_spoken(rng).capitalize()}"),
    "birth": Kind("date_of_birth", "date of birth", lambda rng: f"{rng.randrange(1, 29)} {rng.choice(('March', 'May', 'July', 'October'))} {rng.randrange(1940, 2008)}", lambda rng: f"{rng.randrange(1, 29)} {rng.choice(('March', 'May', 'July', 'October'))} {rng.randrange(1800, 1860)}"),
    "credential": Kind("credential", "password", _values.password, lambda rng: f"example-{_from(rng, string.ascii_lowercase + string.digits, 8)}"),
}  # fmt: skip

TODAY = "EMAIL_K7SAI"
"""The shape that the product has."""
CODES = {
    TODAY: (BASE32, 5),
    "EMAIL_482013": (string.digits, 6),
    "EMAIL_K48213": (string.ascii_uppercase + string.digits, 6),
    "EMAIL_TOVAKI": (string.ascii_uppercase, 6),
    "[EMAIL_K7SAI]": (BASE32, 5),
}
"""Of the shapes with a type and a code: what the recogniser of pseudonyms must know of the code."""


def _code(rng: random.Random) -> str:
    return next(code for code in iter(lambda: _from(rng, BASE32, 5), "") if not (code.isalpha() or code.isdigit()))


def _typed(code: Callable[[random.Random], str]) -> Callable[[random.Random, Kind], str]:
    return lambda rng, kind: f"{type_of(kind.detector)}_{code(rng)}"


SHAPES: dict[str, Callable[[random.Random, Kind], str]] = {
    TODAY: _typed(_code),
    "EMAIL_482013": _typed(lambda rng: _from(rng, string.digits, 6)),
    "EMAIL_K48213": _typed(lambda rng: _from(rng, string.ascii_uppercase, 1) + _from(rng, string.digits, 5)),
    "EMAIL_TOVAKI": _typed(_spoken),
    "[EMAIL_K7SAI]": lambda rng, kind: f"[{type_of(kind.detector)}_{_code(rng)}]",
    "realistic": lambda rng, kind: kind.realistic(rng),
    "true value": lambda rng, kind: kind.value(rng),
}
"""Name of a shape -> a stand-in for a value of a kind. The last is the control."""


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt with one stand-in."""

    number: int
    """Of the prompt; the same with each shape."""
    task: str
    kind: str
    shape: str
    stand_in: str
    prompt: str

    def record(self) -> dict[str, object]:
        """What the file of answers has of it."""
        return {name: value for name, value in asdict(self).items() if name != "prompt"}


def cases(seed: int = 12) -> Iterator[Case]:
    """Every prompt of every task with every kind of value, in random order, each with every shape in turn: 240 x 7."""
    prompts = [(task, at, kind) for task, texts in TASKS.items() for at in range(len(texts)) for kind in KINDS]
    random.Random(seed).shuffle(prompts)
    for number, (task, at, name) in enumerate(prompts):
        kind = KINDS[name]
        for shape, make in SHAPES.items():
            stand_in = make(random.Random(f"{seed} {number} {shape}"), kind)
            yield Case(number, task, name, shape, stand_in, _prompt(TASKS[task][at], kind, stand_in))


def _prompt(text: str, kind: Kind, stand_in: str) -> str:
    key = kind.what.replace(" ", "_").replace("-", "").lower()
    return text.format(value=stand_in, what=kind.what, What=kind.what.capitalize(), key=key)
