"""The sentiment of a film review: real sentences of Pang and Lee's set, and short ones made of clear words."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from random import Random
from zipfile import ZipFile

from examples.models.recipe.tasks.base import Example, held_out, quoted
from examples.models.recipe.words import with_article, words

ARCHIVE = Path(__file__).parents[2] / "data" / "sentence_polarity.zip"

ASK_POSITIVE = (
    "Is this review positive? {x}",
    "Is this review positive? {x}",
    "Is this sentence positive? {x}",
    "{x} Is this review positive?",
)
ASK_NEGATIVE = ("Is this review negative? {x}", "Is this sentence negative? {x}")
ASK_EITHER = (
    "Is this review positive or negative? {x}",
    "Is this review positive or negative? {x}",
    "What is the sentiment of this review? {x}",
    "What is the sentiment of this sentence: {x}",
    "Classify the sentiment: {x}",
    "Review: {x}\nSentiment?",
    "{x} Positive or negative?",
    "Does the writer of this review like the film? {x}",
)

GOOD = words(
    """
    warm funny brilliant charming wonderful moving beautiful delightful clever great good excellent touching
    gripping fresh lovely superb fascinating enjoyable smart amazing fantastic heartfelt engaging powerful
    memorable
    """
)
BAD = words(
    """
    dull boring terrible awful bad predictable tedious weak silly flat pointless lifeless clumsy slow stupid
    horrible disappointing annoying messy empty forgettable bland shallow poor painful ugly
    """
)
SUBJECTS = words("film movie story comedy drama thriller documentary picture sequel romance")
PARTS = words("plot acting script music cast ending dialogue direction photography humour pacing performance")
FRAMES = (
    "{Aa} {a}, {b} {s}.",
    "{Aa} {a} {s} with {bb} {b} {p}.",
    "The {p} is {a} and the {q} is {b}.",
    "This {s} is {a} and {b}.",
    "I found the {p} {a} and the {q} {b}.",
    "What {aa} {a} {s}!",
    "The {s} was {a}.",
    "{Aa} {a} and {b} {s} from start to finish.",
    "The {p} is {a}.",
    "Such {aa} {a} {s}, and the {p} is {b}.",
    "{A}, {b}, {c}.",
    "It was {a}, with {bb} {b} {p}.",
)
LIKED = (
    "I loved this {s}.",
    "I loved every minute of it.",
    "Go and see this {s}!",
    "One of the best films of the year.",
    "I really liked the {p}.",
    "The best {s} I have seen in years.",
    "You will laugh and cry.",
    "I would watch this {s} again.",
)
DISLIKED = (
    "I hated this {s}.",
    "A waste of time.",
    "Do not waste your money on this {s}.",
    "One of the worst films of the year.",
    "I did not like the {p}.",
    "The worst {s} I have seen in years.",
    "I fell asleep after ten minutes.",
    "I would not watch this {s} again.",
)


def natural(tokenised: str) -> str:
    """'a warm , funny film .' as people write it: 'A warm, funny film.'"""
    text = re.sub(r"\s+([,.;:!?)\]%]|'s\b|n't\b)", r"\1", " ".join(tokenised.split()))
    text = re.sub(r"([(\[$])\s+", r"\1", text)
    text = re.sub(r'" ([^"]*?) "', r'"\1"', text)
    text = re.sub(r"\bi\b(?!\.)", "I", text)
    return text[:1].upper() + text[1:]


@cache
def reviews() -> tuple[tuple[str, bool], ...]:
    """Every review as (natural text, whether it is positive), in the order of the archive."""
    found: dict[str, bool] = {}
    with ZipFile(ARCHIVE) as archive:
        for name, positive in (("pos", True), ("neg", False)):
            lines = archive.read(f"sentence_polarity/rt-polarity.{name}").decode("utf-8").splitlines()
            found.update((natural(line), positive) for line in lines if line.strip())
    return tuple(found.items())


@cache
def training_sentences() -> tuple[str, ...]:
    """The reviews that are not held out, for unrelated text in other tasks and for the tokenizer."""
    return tuple(text for text, _ in reviews() if not held_out(text))


def training_sentence(rng: Random) -> str:
    """One review that is not held out."""
    return rng.choice(training_sentences())


def _example(rng: Random, task: str, text: str, *, positive: bool) -> Example:
    word = "positive" if positive else "negative"
    kind = rng.random()
    if kind < 0.35:
        ask, reply = rng.choice(ASK_POSITIVE), f"{'Yes' if positive else 'No'}, it is {word}."
    elif kind < 0.45:
        ask, reply = rng.choice(ASK_NEGATIVE), f"{'No' if positive else 'Yes'}, it is {word}."
    else:
        ask, reply = rng.choice(ASK_EITHER), f"It is {word}."
    return Example(task=task, prompt=ask.format(x=quoted(text, rng)), answer=reply, key=text, final=reply)


def real_review(rng: Random) -> Example:
    """The sentiment of a real review."""
    text, positive = rng.choice(reviews())
    return _example(rng, "sentiment, real reviews", text, positive=positive)


def _made(rng: Random, choices: list[str]) -> str:
    a, b, c = rng.sample(choices, 3)
    p, q = rng.sample(PARTS, 2)
    article = {word: with_article(word).split()[0] for word in (a, b)}
    return rng.choice(FRAMES).format(
        a=a,
        b=b,
        c=c,
        p=p,
        q=q,
        s=rng.choice(SUBJECTS),
        aa=article[a],
        bb=article[b],
        A=a.capitalize(),
        Aa=article[a].capitalize(),
    )


def simple_review(rng: Random) -> Example:
    """The sentiment of a made-up review in clear words."""
    positive = rng.random() < 0.5
    if rng.random() < 0.2:
        text = rng.choice(LIKED if positive else DISLIKED).format(s=rng.choice(SUBJECTS), p=rng.choice(PARTS))
    else:
        text = _made(rng, GOOD if positive else BAD)
    return _example(rng, "sentiment, simple reviews", text, positive=positive)
