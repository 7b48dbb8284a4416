"""The prompts of the tasks, chosen by what a 135M model does with them; docs/tasks.md has the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from hybrid_llm.core.request import Message
from hybrid_llm.core.taskform import fenced

NOT_FOUND: Final = "not in the text"


def _about(instruction: str, text: str, closing: str = "") -> list[Message]:
    """*instruction*, then *text* between marks: what it says is no instruction."""
    content = fenced(text) + (f"\n\n{closing}" if closing else "")
    return [Message(role="system", content=instruction), Message(role="user", content=content)]


def classify(text: str, labels: Sequence[str]) -> list[Message]:
    """One of *labels*, in JSON."""
    plain = not any("," in label for label in labels)
    listed = ", ".join(label if plain else json.dumps(label, ensure_ascii=False) for label in labels)
    return _about(f"Classify the text of the user. Answer with one of these labels: {listed}.", text)


def summarise(text: str, sentences: int) -> list[Message]:
    """A summary of at most so many sentences."""
    length = "one sentence" if sentences == 1 else f"at most {sentences} sentences"
    return _about(f"Summarise the text of the user in {length}. Write only the summary.", text)


def translate(text: str, language: str, source: str) -> list[Message]:
    """The text in *language*."""
    origin = f" from {source}" if source else ""
    return _about(f"Translate the text of the user{origin} to {language}. Write only the translation.", text)


def extract(text: str, names: Sequence[str]) -> list[Message]:
    """What an output schema asks for, whose properties have these *names*."""
    listed = f": {', '.join(names)}" if names else ""
    return _about(f"Extract from the text of the user, as JSON{listed}. Use the words of the text.", text)


def answer(text: str, question: str) -> list[Message]:
    """The answer to *question*, in JSON."""
    instruction = "Answer the question from the text alone, in a few words of the text; with null if it does not say."
    return _about(instruction, text, f"Question: {question}")
