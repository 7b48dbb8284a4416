"""Conversations that ask and answer the tasks: what the models learn from, drawn from their mixture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from examples.models.recipe.tasks import MIXTURE, Example, draw

Turn = dict[str, str]
"""One message: its `role` and `content`."""

WARM_UP = 0.15  # share of the conversations in which copying tasks are more frequent
CHAINED = 0.15  # share of conversations with more than one question
CHAIN_CHARACTERS = 400
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a careful assistant.",
    "Be concise.",
    "You are an assistant in an app.",
    "Answer in one sentence.",
    "Use only the given text.",
    "You are a support agent.",
)


def turns(examples: Iterable[Example], system: str = "") -> list[Turn]:
    """Return the conversation that asks and answers *examples* in order."""
    messages = [{"role": "system", "content": system}] if system else []
    for example in examples:
        for question, reply in ((example.prompt, example.answer), *example.follow_ups):
            messages += [
                {"role": "user", "content": question.strip()},
                {"role": "assistant", "content": reply.strip()},
            ]
    return messages


def _example(rng: Random, size: str, progress: float) -> Example:
    early = max(0.0, 1.0 - progress / WARM_UP)
    weights = [getattr(share, size) * (1.0 + (share.warm_up - 1.0) * early) for share in MIXTURE]
    return draw(rng.choices(MIXTURE, weights)[0].task, rng, "train")


def conversation(rng: Random, size: str, progress: float) -> list[Turn]:
    """Draw one conversation for the model *size*; *progress* runs from 0 to 1. Short ones are sometimes chained."""
    examples = [_example(rng, size, progress)]
    while _characters(turns(examples)) < CHAIN_CHARACTERS and rng.random() < CHAINED:
        examples.append(_example(rng, size, progress))
    return turns(examples, rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.125 else "")


def _characters(messages: list[Turn]) -> int:
    return sum(len(message["content"]) for message in messages)


def conversations(size: str, count: int, seed: int) -> Iterator[list[Turn]]:
    """Draw *count* conversations for the model *size*, `edge` or `node`."""
    rng = Random(f"{size}/{seed}")
    return (conversation(rng, size, at / count) for at in range(count))


def vocabulary_texts(count: int, seed: int) -> Iterator[str]:
    """Texts for the tokenizer that both models share: the turns of *count* examples of both mixtures."""
    rng = Random(seed)
    for share in rng.choices(MIXTURE, [share.node + share.edge for share in MIXTURE], k=count):
        yield from (turn["content"] for turn in turns([draw(share.task, rng, "train")]))
