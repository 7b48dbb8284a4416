"""Held-out questions with their answers, as the tasks of a suite read them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from examples.models.recipe.tasks import EVALUATED, Example, draw

SEED = 20_000
LONG_ITEMS = 40


def held_out_items(items: int) -> list[Example]:
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


def file_name(task: str) -> str:
    """The name of the file of *task*: `arithmetic, 1-2 digits` is in `arithmetic_1_2_digits.jsonl`."""
    return "_".join(task.replace(",", " ").replace("-", " ").split()) + ".jsonl"


def by_file(items: int) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Each file with its records, of which `reference` is the part of the answer that is judged."""
    files: dict[str, list[dict[str, str]]] = {}
    for example in held_out_items(items):
        record = {"prompt": example.prompt.strip(), "reference": example.final.strip()}
        files.setdefault(file_name(example.task), []).append(record)
    yield from files.items()
