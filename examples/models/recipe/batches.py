"""An endless stream of training batches: drawn from the mixture, grouped by length, reproducible by seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from tokenizers import Tokenizer

from examples.models.recipe.chat_format import PAD_ID, Encoded, conversation, encode
from examples.models.recipe.models import Size
from examples.models.recipe.tasks import MIXTURE, Example, draw

POOL_STEPS = 24
PART_TOKENS = 1024  # per forward pass; a step sums several, so that it sees tasks of all lengths
WARM_UP = 0.15  # share of the training in which copying tasks are more frequent
CHAINED = 0.15  # share of conversations with more than one question
CHAIN_TOKENS = 160


@dataclass(frozen=True, slots=True)
class Batch:
    """*ids* and *weights*, of shape (rows, length), padded on the right."""

    ids: Any
    weights: Any


class Stream:
    """Draws conversations for one size; *progress* runs from 0 to 1 over the training."""

    def __init__(self, size: Size, tokenizer: Tokenizer, seed: int) -> None:
        self._size, self._tokenizer, self._seed = size, tokenizer, seed
        self._rng = Random(seed)

    def _example(self, progress: float) -> Example:
        early = max(0.0, 1.0 - progress / WARM_UP)
        weights = [getattr(share, self._size.name) * (1.0 + (share.warm_up - 1.0) * early) for share in MIXTURE]
        share = self._rng.choices(MIXTURE, weights)[0]
        return draw(share.task, self._rng, "train")

    def _encoded(self, progress: float) -> Encoded:
        """Draw one conversation; short ones are sometimes chained."""
        examples = [self._example(progress)]
        encoded = encode(self._tokenizer, conversation(self._rng, examples))
        while len(encoded.ids) < CHAIN_TOKENS and self._rng.random() < CHAINED:
            examples.append(self._example(progress))
            encoded = encode(self._tokenizer, conversation(self._rng, examples))
        return encoded

    def _pool(self, progress: float) -> list[list[Encoded]]:
        """Parts for about `POOL_STEPS` steps, each of conversations of similar length."""
        items: list[Encoded] = []
        tokens = 0
        while tokens < POOL_STEPS * self._size.batch_tokens:
            item = self._encoded(progress)
            if len(item.ids) <= self._size.context:
                items.append(item)
                tokens += len(item.ids)
        parts = _grouped(sorted(items, key=lambda item: len(item.ids)), PART_TOKENS)
        self._rng.shuffle(parts)
        return parts

    def steps(self, count: int, done: int = 0) -> Iterator[list[Batch]]:
        """Yield the parts of steps *done* to *count*; a resumed training draws new ones."""
        self._rng = Random(f"{self._seed}/{done}")
        size = self._size.batch_tokens // PART_TOKENS
        while done < count:
            parts = self._pool(done / count)
            for start in range(0, min(len(parts) - size + 1, (count - done) * size), size):
                yield [_padded(part) for part in parts[start : start + size]]
                done += 1


def _grouped(items: list[Encoded], budget: int) -> list[list[Encoded]]:
    groups: list[list[Encoded]] = [[]]
    for item in items:
        if groups[-1] and (len(groups[-1]) + 1) * len(item.ids) > budget:
            groups.append([])
        groups[-1].append(item)
    return groups


def _padded(items: list[Encoded]) -> Batch:
    import torch

    length = max(len(item.ids) for item in items)
    ids = [item.ids + [PAD_ID] * (length - len(item.ids)) for item in items]
    weights = [item.weights + [0.0] * (length - len(item.weights)) for item in items]
    return Batch(torch.tensor(ids), torch.tensor(weights))
