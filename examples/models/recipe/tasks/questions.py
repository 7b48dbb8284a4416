"""Questions about who did what, where and when, with one sentence or a long passage to find the answer in."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from examples.models.recipe.tasks.base import Example, Task, held_out, quoted
from examples.models.recipe.tasks.reviews import training_sentence
from examples.models.recipe.words import JOBS, MONTHS, WEEKDAYS, city, invented, person, thing, with_article

VERBS = (
    ("bought", "buy"),
    ("sold", "sell"),
    ("found", "find"),
    ("lost", "lose"),
    ("painted", "paint"),
    ("repaired", "repair"),
    ("hid", "hide"),
    ("broke", "break"),
    ("borrowed", "borrow"),
    ("cleaned", "clean"),
    ("carried", "carry"),
    ("stole", "steal"),
    ("made", "make"),
    ("left", "leave"),
)
TIMES = (
    *(f"on {day}" for day in WEEKDAYS),
    *(f"in {month}" for month in MONTHS),
    "in the morning",
    "in the evening",
    "at night",
    "at noon",
    "last week",
    "yesterday",
    "last summer",
    "in the afternoon",
)
FILLERS = (
    "The weather stayed calm all day.",
    "Nobody noticed anything unusual.",
    "The streets were quiet.",
    "It rained a little towards the end.",
    "The shops closed earlier than usual.",
    "Some people talked about it for weeks.",
    "The newspaper wrote a short note.",
    "Everyone was tired afterwards.",
    "There was music in the distance.",
    "The prices had gone up again.",
    "A dog was barking somewhere.",
)
ASK = (
    "{text}\n\n{question}",
    "{text}\n\n{question}",
    "{text} {question}",
    "{question}\n\n{text}",
    "Text: {text}\nQuestion: {question}",
    "Read this: {text}\n{question}",
    "Read the text and answer the question.\n\n{text}\n\nQuestion: {question}",
    "Context: {text}\n\nQuestion: {question}",
    "Passage: {text}\n\nQuestion: {question}",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence and the questions that it answers."""

    sentence: str
    pairs: tuple[tuple[str, str], ...]
    key: str


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _deed(rng: Random) -> Fact:
    """A person does something to an object somewhere at some time."""
    who, what, where, when = person(rng), thing(rng), city(rng), rng.choice(TIMES)
    past, base = rng.choice(VERBS)
    core = f"{past} {with_article(what)}"
    sentence = rng.choice(
        (
            f"{who} {core} in {where} {when}.",
            f"{_capital(when)}, {who} {core} in {where}.",
            f"In {where}, {who} {core} {when}.",
            f"{who} {core} {when} in {where}.",
        )
    )
    pairs = (
        (f"Who {past} the {what}?", f"{who}."),
        (f"What did {who} {base}?", f"{_capital(with_article(what))}."),
        (f"Where did {who} {base} the {what}?", f"In {where}."),
        (f"When did {who} {base} the {what}?", f"{_capital(when)}."),
        (f"Where was {who}?", f"In {where}."),
    )
    return Fact(sentence, pairs, f"{who}|{what}|{where}")


def _meeting(rng: Random) -> Fact:
    """Two people meet."""
    who, other, where, when = person(rng), person(rng), city(rng), rng.choice(TIMES)
    sentence = rng.choice((f"{who} met {other} in {where} {when}.", f"{_capital(when)}, {who} met {other} in {where}."))
    pairs = (
        (f"Who met {other}?", f"{who}."),
        (f"Who did {who} meet?", f"{other}."),
        (f"Where did {who} meet {other}?", f"In {where}."),
        (f"When did {who} meet {other}?", f"{_capital(when)}."),
    )
    return Fact(sentence, pairs, f"{who}|{other}|{where}")


def _life(rng: Random) -> Fact:
    """Where a person lives, what they work as, where they went."""
    who, where, job, when = person(rng), city(rng), rng.choice(JOBS), rng.choice(TIMES)
    kind = rng.randrange(3)
    if kind == 0:
        sentence = f"{who} works as {with_article(job)} in {where}."
        pairs: tuple[tuple[str, str], ...] = (
            (f"Where does {who} work?", f"In {where}."),
            (f"What is the job of {who}?", f"{_capital(job)}."),
        )
    elif kind == 1:
        sentence = f"{who} travelled to {where} {when}."
        pairs = (
            (f"Where did {who} travel?", f"To {where}."),
            (f"When did {who} travel to {where}?", f"{_capital(when)}."),
        )
        pairs += ((f"Who travelled to {where}?", f"{who}."),)
    else:
        sentence = f"{who} lives in {where}."
        pairs = ((f"Where does {who} live?", f"In {where}."), (f"Who lives in {where}?", f"{who}."))
    return Fact(sentence, pairs, f"{who}|{where}|{kind}")


def _secret(rng: Random) -> Fact:
    """A code, a password or a number that belongs to something."""
    owner = f"the {thing(rng)}" if rng.random() < 0.5 else person(rng)
    code = str(rng.randint(100, 99999)) if rng.random() < 0.6 else invented(rng, 3)
    word = rng.choice(("code", "password", "number"))
    return Fact(
        f"The {word} of {owner} is {code}.", ((f"What is the {word} of {owner}?", f"{code}."),), f"{owner}|{code}"
    )


KINDS = (_deed, _deed, _deed, _meeting, _life, _life, _secret)


def _distinct(rng: Random, count: int) -> list[Fact]:
    """*count* facts of which no question is answered by another one."""
    facts: dict[str, Fact] = {}
    while len(facts) < count:
        fact = rng.choice(KINDS)(rng)
        parts = fact.key.split("|")
        if not any(part in key.split("|") for key in facts for part in parts if len(part) > 1):
            facts[fact.key] = fact
    return list(facts.values())


def _same_split(facts: list[Fact]) -> list[Fact]:
    return [fact for fact in facts if held_out(fact.key) == held_out(facts[0].key)]


def _passage(rng: Random, facts: list[Fact], filler: float) -> str:
    sentences = []
    for fact in facts:
        sentences.append(fact.sentence)
        if rng.random() < filler:
            sentences.append(rng.choice(FILLERS) if rng.random() < 0.6 else training_sentence(rng))
    return " ".join(sentences)


def of_facts(name: str, fewest: int, most: int, *, filler: float = 0.0, turns: int = 1) -> Task:
    """A task with *fewest* to *most* facts, the share *filler* of unrelated sentences and up to *turns* questions."""

    def task(rng: Random) -> Example:
        facts = _distinct(rng, rng.randint(fewest, most))
        asked = _same_split(rng.sample(facts, min(len(facts), turns)))
        pairs = [rng.choice(fact.pairs) for fact in asked]
        text = _passage(rng, facts, filler)
        shown = quoted(text, rng) if fewest == 1 else text
        prompt = rng.choice(ASK).format(text=shown, question=pairs[0][0])
        return Example(
            task=name,
            prompt=prompt,
            answer=pairs[0][1],
            key=asked[0].key,
            final=pairs[0][1],
            follow_ups=tuple(pairs[1:]),
        )

    return task


one_sentence = of_facts("questions, 1 sentence", 1, 1)
few_sentences = of_facts("questions, 3-8 sentences", 3, 8, filler=0.15, turns=2)
long_passage = of_facts("questions, 20-50 sentences", 20, 44, filler=0.2, turns=8)
