"""Learning from a teacher's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Request
from hybrid_llm.prepare.compression.distilling.answers import Answer, Answers, Prompt, Teacher, collect, prompts_of
from hybrid_llm.prepare.compression.distilling.student import Student
from hybrid_llm.prepare.compression.distilling.teachers import messages_of
from hybrid_llm.prepare.compression.examples import TRAIN, Example, drawn, padded
from hybrid_llm.prepare.compression.folders import Kind
from hybrid_llm.prepare.compression.losses import next_token_loss
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.step import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """How a student learns answers; see the keys of the step."""

    budget_tokens: int
    batch: int
    length: int
    limit: int


class AnswerDistillation:
    """The loss of a student on the answers of a teacher, which are asked for once."""

    def __init__(
        self, lessons: Lessons, open_teacher: Callable[[], Teacher], student: Student, data: Path, work: Work
    ) -> None:
        """Have the prompts of *data* answered.

        Raises:
            ConfigError: the student is no generator, there are no prompts, or no answer.
            TeacherStopped: the teacher failed; the answers so far are stored.
        """
        if student.kind is not Kind.DECODER:
            raise ConfigError("method: sequences needs a student that generates; a classifier learns by method: logits")
        self._lessons, self._seed = lessons, work.seed
        prompts = _prompts(data, lessons.limit)
        answers = Answers.within(work.scratch)
        found = collect(prompts, open_teacher, answers, work.progress, most_tokens=lessons.budget_tokens)
        self._answers = list(found.values())
        self._asked = len(prompts)
        self._examples = _examples(student, prompts, found, lessons.length)

    @property
    def metrics(self) -> Mapping[str, float]:
        """How many answers there are, and how many prompts stayed private."""
        private = sum(answer.text is None for answer in self._answers)
        tokens = sum(answer.tokens for answer in self._answers)
        answered = len(self._answers) - private
        return {
            "prompts": float(self._asked),
            "answers": float(answered),
            "private_prompts": float(private),
            "teacher_tokens": float(tokens),
        }

    @property
    def card(self) -> Mapping[str, Any]:
        """For the card of the model."""
        return dict(self.metrics)

    def loss(self, model: Any, step: int) -> Any:
        """The loss of *model* at *step*, on the tokens of answers."""
        import torch

        chosen = [self._examples[i] for i in drawn(self._examples, self._lessons.batch, step, self._seed)]
        ids, mask = padded([each.ids for each in chosen])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        return next_token_loss(logits, ids, mask, torch.tensor([each.start for each in chosen]))


def _prompts(folder: Path, limit: int) -> list[Prompt]:
    data = DataFolder.open(folder)
    if data.card.format not in {DataFormat.TEXT, DataFormat.CHAT, DataFormat.LABELLED}:
        message = f"{folder} holds {data.card.format}: expected texts or conversations to be answered"
        raise ConfigError(message, path=str(folder))
    found = list(islice(prompts_of(data.records(TRAIN)), limit))
    if not found:
        raise ConfigError(f"the split `{TRAIN}` of {folder} has no prompts: prepare more data", path=str(folder))
    return found


def _examples(student: Student, prompts: list[Prompt], answers: Mapping[int, Answer], length: int) -> list[Example]:
    """Prompt and answer as one row of at most *length* tokens; those whose prompt alone is as long are left out."""
    chat = ChatTokenizer.load(student.source)
    end = _end_of_turn(student)
    found = []
    for number, answer in sorted(answers.items()):
        if not answer.text:
            continue
        given = chat.encode(Request(messages=messages_of(prompts[number])))
        written = chat.tokenizer.encode(answer.text, add_special_tokens=False).ids
        if len(given) < length:
            found.append(Example(tuple([*given, *written, *end][:length]), start=len(given)))
    if not found:
        raise ConfigError(
            "the teacher gave no answer that can be learnt: each is private, empty, or its prompt too long"
        )
    return found


def _end_of_turn(student: Student) -> list[int]:
    config = getattr(student.model, "generation_config", None) or student.model.config
    end = config.eos_token_id if config.eos_token_id is not None else student.model.config.eos_token_id
    return [end] if isinstance(end, int) else list(end or [])[:1]
