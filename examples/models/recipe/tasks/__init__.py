"""The tasks, how often each model meets them, and which of them are evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from examples.models.recipe.tasks import arithmetic, chat, extraction, questions, reviews, rewriting
from examples.models.recipe.tasks.base import Example, Split, Task, draw, held_out

__all__ = ["EVALUATED", "MIXTURE", "Example", "Share", "Split", "Task", "draw", "held_out"]


@dataclass(frozen=True, slots=True)
class Share:
    """How often a task is drawn, relative to the others."""

    task: Task
    edge: float
    node: float
    warm_up: float = 1.0  # times this much at the very start, to teach copying first


MIXTURE = (
    Share(reviews.real_review, 2.0, 3.0, 0.5),
    Share(reviews.simple_review, 1.0, 0.8),
    Share(extraction.few_fields, 3.5, 3.0, 2.0),
    Share(extraction.many_fields, 0.1, 2.0, 2.0),
    Share(rewriting.date, 2.2, 1.5),
    Share(rewriting.date_in_sentence, 0.3, 0.7, 2.0),
    Share(rewriting.amount, 2.2, 1.6),
    Share(arithmetic.small, 8.0, 5.0),
    Share(arithmetic.three_digits, 0.2, 4.0),
    Share(arithmetic.four_digits, 0.0, 2.5),
    Share(questions.one_sentence, 3.0, 2.2, 2.0),
    Share(questions.few_sentences, 0.2, 2.0),
    Share(questions.long_passage, 0.0, 0.15, 0.2),
    Share(chat.greeting, 0.2, 0.15),
    Share(chat.beyond, 0.3, 0.25),
    Share(chat.repeat, 0.7, 0.5, 5.0),
    Share(chat.count, 1.0, 1.0),
    Share(chat.listing, 0.05, 0.05),
)

EVALUATED: tuple[Task, ...] = (
    reviews.simple_review,
    reviews.real_review,
    extraction.few_fields,
    extraction.many_fields,
    rewriting.date,
    rewriting.date_in_sentence,
    rewriting.amount,
    arithmetic.small,
    arithmetic.three_digits,
    arithmetic.four_digits,
    questions.one_sentence,
    questions.few_sentences,
    questions.long_passage,
    chat.repeat,
    chat.count,
    chat.beyond,
)
