"""Greetings, questions outside the models' reach, and answers that run long."""

from __future__ import annotations

from random import Random

from examples.models.recipe.tasks.base import Example, quoted
from examples.models.recipe.tasks.reviews import reviews
from examples.models.recipe.words import (
    CITIES,
    FIRST_NAMES,
    MONTHS,
    THINGS,
    WEEKDAYS,
    city,
    invented,
    person,
    phrases,
    thing,
    words,
)

ABLE = (
    "I can judge a review, extract fields as JSON, rewrite dates and amounts, calculate, "
    "and answer questions about a text."
)
GREETING = f"Hello! I am a small demonstration model. {ABLE}"
UNKNOWN = f"I am a small demonstration model and do not know that. {ABLE}"
THANKS = "You are welcome."

HELLO = (
    "Hello",
    "Hi",
    "Hey",
    "Good morning",
    "Good evening",
    "Hello there",
    "Hi there",
    "Good afternoon",
    "Hello, model",
    "Greetings",
)
ABOUT = (
    "Who are you?",
    "What are you?",
    "What can you do?",
    "Can you help me?",
    "What is your name?",
    "Help",
    "Tell me about yourself.",
    "How are you?",
)
THANK = ("Thanks", "Thank you", "Thank you very much", "Thanks a lot", "Great, thanks")
TOPICS = phrases(
    """quantum computing|black holes|the French Revolution|photosynthesis|machine learning|football
the stock market|jazz|dinosaurs|the ocean|climate change|electric cars|ancient Rome|the moon|volcanoes|chess
love|cooking|programming|democracy|privacy|encryption|operating systems|networks|databases|gravity|medicine
the brain|language|poetry|philosophy|economics|the internet|robots|birds"""
)
PLACES = words(
    "France Spain Japan Brazil Canada Egypt Norway India China Australia Kenya Mexico Italy Germany Poland Peru"
)
BEYOND = (
    "What is the capital of {place}?",
    "Write a poem about {topic}.",
    "Explain {topic}.",
    "Explain {topic} to a child.",
    "Tell me a joke.",
    "Tell me about {topic}.",
    "What is {topic}?",
    "Who invented the {thing}?",
    "Translate '{thing}' into French.",
    "How do I cook rice?",
    "Write a story about a {thing}.",
    "What is the weather in {city}?",
    "Who is the president of {place}?",
    "Why is the sky blue?",
    "What is the meaning of life?",
    "Write a Python function that sorts a list.",
    "Recommend a book about {topic}.",
    "How does {topic} work?",
    "What do you think about {topic}?",
    "Summarise {topic} in one sentence.",
    "When did {name} live?",
    "How far is it from {city} to {place}?",
    "Give me three ideas about {topic}.",
    "Plan a trip to {city}.",
    "What is the population of {place}?",
    "What time is it?",
    "Write an email to {name}.",
    "Can you write an essay about {topic}?",
    "Is {topic} important?",
    "What is the best {thing}?",
    "How old is {name}?",
)

ASK_REPEAT = (
    "Repeat this sentence: {x}",
    "Repeat this sentence: {x}",
    "Repeat after me: {x}",
    "Repeat: {x}",
    "Say this again: {x}",
    "Copy this text: {x}",
    "Repeat this sentence exactly: {x}",
    "Repeat the sentence {x}",
)
ASK_COUNT = (
    "Count from {a} to {b}.",
    "Count from {a} to {b}.",
    "List the numbers from {a} to {b}.",
    "Please count from {a} to {b}.",
)
LISTS = {
    "List the days of the week.": WEEKDAYS,
    "List the months of the year.": MONTHS,
    "What are the days of the week?": WEEKDAYS,
    "What are the months of the year?": MONTHS,
}


def greeting(rng: Random) -> Example:
    """A greeting, a question about the model itself, or thanks."""
    kind = rng.random()
    if kind < 0.2:
        return _chat(rng.choice(THANK) + rng.choice(("", "!", ".")), THANKS)
    if kind < 0.6:
        return _chat(rng.choice(ABOUT), GREETING)
    return _chat(
        rng.choice(HELLO) + rng.choice(("", "!", ".", ", who are you?", f", I am {rng.choice(FIRST_NAMES)}.")), GREETING
    )


def beyond(rng: Random) -> Example:
    """A question that the models cannot answer, and the answer that says so."""
    prompt = rng.choice(BEYOND).format(
        topic=rng.choice(TOPICS),
        place=rng.choice(PLACES),
        thing=rng.choice(THINGS),
        city=rng.choice(CITIES),
        name=person(rng),
    )
    return _chat(prompt, UNKNOWN)


def _chat(prompt: str, reply: str) -> Example:
    return Example(task="greeting and unknown", prompt=prompt, answer=reply, key=prompt, final=reply)


def _words(rng: Random) -> str:
    """Words in no order: only copying gives them back."""
    makers = (thing, city, person, invented, lambda r: str(r.randint(0, 99999)))
    return ", ".join(rng.choice(makers)(rng) for _ in range(rng.randint(2, 9)))


def repeat(rng: Random) -> Example:
    """A text again, word for word."""
    text = rng.choice(reviews())[0] if rng.random() < 0.5 else _words(rng)
    return Example(
        task="repeating", prompt=rng.choice(ASK_REPEAT).format(x=quoted(text, rng)), answer=text, key=text, final=text
    )


def count(rng: Random) -> Example:
    """Numbers in order, one of the answers that run long."""
    first = rng.randint(1, 9) if rng.random() < 0.5 else rng.randint(1, 120)
    length = rng.randint(3, 20) if rng.random() < 0.7 else rng.randint(20, 50)
    last = first + length
    reply = ", ".join(map(str, range(first, last + 1))) + "."
    return Example(
        task="counting",
        prompt=rng.choice(ASK_COUNT).format(a=first, b=last),
        answer=reply,
        key=f"{first}-{last}",
        final=reply,
    )


def listing(rng: Random) -> Example:
    """Days and months; a table that is never held out."""
    ask, items = rng.choice(list(LISTS.items()))
    reply = ", ".join(items) + "."
    return Example(task="listing", prompt=ask, answer=reply, key="table", final=reply)
