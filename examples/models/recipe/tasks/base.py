"""What a task is: a function that draws one question with its answer; and how content is kept apart for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Literal

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 16  # one content in sixteen is never trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question and its answer.

    Attributes:
        task: The name in the evaluation table, such as 'arithmetic, 3 digits'.
        prompt: What the user says.
        answer: What the model shall say.
        key: The content that decides the split; the wording around it does not.
        final: The part of the answer that is judged.
        follow_ups: Further (question, answer) turns about the same passage.
    """

    task: str
    prompt: str
    answer: str
    key: str
    final: str
    follow_ups: tuple[tuple[str, str], ...] = ()


Task = Callable[[Random], Example]


def held_out(key: str) -> bool:
    """Whether the content *key* belongs to the evaluation, the same on every machine."""
    return blake2b(key.encode(), digest_size=2).digest()[0] % HELD_OUT_SHARE == 0


def draw(task: Task, rng: Random, split: Split) -> Example:
    """Draw from *task* until an example of *split* comes."""
    while True:
        example = task(rng)
        if held_out(example.key) == (split == "held_out"):
            return example


def listed(items: Sequence[str]) -> str:
    """'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def quoted(text: str, rng: Random) -> str:
    """*text* as it is, or in single or double quotes where it has none itself."""
    marks = [mark for mark in ("'", '"', "", "") if not mark or mark not in text]
    mark = rng.choice(marks)
    return f"{mark}{text}{mark}"
