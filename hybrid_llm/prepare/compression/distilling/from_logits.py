"""Learning from a teacher's probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.distilling.logits import Stored, store_labels, store_tokens
from hybrid_llm.prepare.compression.distilling.student import Student
from hybrid_llm.prepare.compression.distilling.vocabulary import match_vocabularies
from hybrid_llm.prepare.compression.examples import Example, drawn, labelled, padded
from hybrid_llm.prepare.compression.folders import Kind, open_model, open_tokenizer
from hybrid_llm.prepare.compression.losses import IGNORED, divergence, next_token_loss, whole_divergence
from hybrid_llm.prepare.hub_folder import HubFolder
from hybrid_llm.prepare.step import Progress, Work

_COMPARED: Final = 64
"""Examples that both tokenizers must split in the same places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a student follows probabilities; see the keys of the step."""

    temperature: float
    hard_weight: float
    likeliest: int
    batch: int
    length: int
    limit: int


class LogitDistillation:
    """The loss of a student that follows what a teacher finds likely, computed once and stored."""

    def __init__(self, recipe: Recipe, teacher: Path, student: Student, data: Path, work: Work) -> None:
        """Run the teacher over the data.

        Raises:
            ConfigError: vocabularies or labels differ, or the teacher cannot be loaded.
        """
        self._recipe, self._seed = recipe, work.seed
        self._examples = student.examples(data, recipe.length, recipe.limit)
        self._decodes = student.kind is Kind.DECODER
        folder = work.scratch / "teacher"
        if self._decodes:
            self._stored = self._store_tokens(teacher, student, folder, work.progress)
        else:
            self._stored = self._store_labels(teacher, student, data, folder, work.progress)

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the teacher's probabilities took."""
        tokens = sum(len(each.ids) for each in self._examples)
        return {"stored_mb": round(self._stored.bytes / 1e6, 3), "learnt_tokens": float(tokens)}

    @property
    def card(self) -> Mapping[str, Any]:
        """For the card of the model."""
        return {"temperature": self._recipe.temperature, "hard_weight": self._recipe.hard_weight}

    def loss(self, model: Any, step: int) -> Any:
        """The loss of *model* at *step*."""
        numbers = drawn(self._examples, self._recipe.batch, step, self._seed)
        chosen = [self._examples[number] for number in numbers]
        stored = [self._stored.of(number) for number in numbers]
        return (self._of_tokens if self._decodes else self._of_labels)(model, chosen, stored)

    def _of_tokens(self, model: Any, chosen: Sequence[Example], stored: Sequence[tuple[Any, ...]]) -> Any:
        import torch

        ids, mask = padded([each.ids for each in chosen])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        likeliest, logprobs, tail = (torch.from_numpy(np.concatenate(each)) for each in zip(*stored, strict=True))
        temperature, hard = self._recipe.temperature, self._recipe.hard_weight
        soft = divergence(logits[mask.bool()], likeliest.to(torch.int64), logprobs.float(), tail.float(), temperature)
        return (1 - hard) * soft + (hard * next_token_loss(logits, ids, mask) if hard else 0.0)

    def _of_labels(self, model: Any, chosen: Sequence[Example], stored: Sequence[tuple[Any, ...]]) -> Any:
        import torch

        ids, mask = padded([each.ids for each in chosen])
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        theirs = torch.from_numpy(np.concatenate([each[0] for each in stored]))
        soft = whole_divergence(logits, theirs, self._recipe.temperature)
        targets = torch.tensor([each.label for each in chosen])
        hard = self._recipe.hard_weight if bool((targets != IGNORED).any()) else 0.0
        if not hard:
            return soft
        return (1 - hard) * soft + hard * torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)

    def _store_tokens(self, teacher: Path, student: Student, folder: Path, progress: Progress) -> Stored:
        tokenizer = open_tokenizer(student.source)
        sample = [tokenizer.decode(list(each.ids)) for each in self._examples[:_COMPARED]]
        vocabulary = match_vocabularies(teacher, student.source, sample)
        return store_tokens(
            open_model(teacher),
            self._examples,
            vocabulary,
            folder,
            progress,
            likeliest=self._recipe.likeliest,
            temperature=self._recipe.temperature,
        )

    def _store_labels(self, teacher: Path, student: Student, data: Path, folder: Path, progress: Progress) -> Stored:
        labels = HubFolder.open(teacher).labels
        order = _label_order(labels, student.labels)
        examples = labelled(data, teacher, labels, self._recipe.length, self._recipe.limit)
        return store_labels(open_model(teacher), examples, order, folder, progress)


def _label_order(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """For each label of the student the number that it has at the teacher."""
    if set(theirs) != set(ours):
        message = f"the teacher has the labels {', '.join(theirs)}, and the student {', '.join(ours)}"
        raise ConfigError(f"{message}: they must be the same")
    return [theirs.index(label) for label in ours]
