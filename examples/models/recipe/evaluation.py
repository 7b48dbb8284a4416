"""Measures the models on held-out items and writes the results as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from examples.models.recipe.runners import Runner
from examples.models.recipe.scoring import correct
from examples.models.recipe.tasks import EVALUATED, Example, draw

ITEMS = 200
LONG_ITEMS = 40
SEED = 20_000
SPARE = 16


@dataclass(frozen=True, slots=True)
class Score:
    """*right* of *count* answers to one task."""

    task: str
    right: int
    count: int


def held_out_items(items: int = ITEMS) -> list[Example]:
    """Draw *items* different held-out examples of every task, fewer of the long ones."""
    rng = Random(SEED)
    chosen: list[Example] = []
    for task in EVALUATED:
        long = "20-50" in draw(task, rng, "held_out").task
        seen: dict[str, Example] = {}
        tries = 0
        while len(seen) < (min(items, LONG_ITEMS) if long else items) and tries < 40 * items:
            example = draw(task, rng, "held_out")
            seen.setdefault(example.prompt, example)
            tries += 1
        chosen += seen.values()
    return chosen


def scores(examples: list[Example], answers: list[str]) -> list[Score]:
    """Return the score of each task, in order of first appearance."""
    found: dict[str, list[bool]] = {}
    for example, answer in zip(examples, answers, strict=True):
        found.setdefault(example.task, []).append(correct(example, answer))
    return [Score(task, sum(marks), len(marks)) for task, marks in found.items()]


def answers(runner: Runner, examples: list[Example]) -> list[str]:
    """Run all *examples*; an answer may have as many tokens as the expected one has characters, and a few more."""
    return runner([example.prompt for example in examples], [len(example.answer) + SPARE for example in examples])


def table(columns: dict[str, list[Score]]) -> str:
    """A Markdown table: one row for each task, one column for each model."""
    first = next(iter(columns.values()))
    lines = ["| task (held-out items) | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for index, score in enumerate(first):
        cells = (_cell(column[index]) for column in columns.values())
        lines.append(f"| {score.task} ({score.count}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(score: Score) -> str:
    return f"{100 * score.right / score.count:.1f} %"


def as_rows(columns: dict[str, list[Score]]) -> Iterable[dict[str, object]]:
    """Yield the same scores as plain data."""
    for model, column in columns.items():
        for score in column:
            yield {"model": model, "task": score.task, "right": score.right, "count": score.count}
