"""A task of multiple choice: the choice that a decoder finds likeliest, as lm-eval does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, ListOf, Text, key
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.metric import Setting
from hybrid_llm.prepare.evaluation.subjects.subject import Subject
from hybrid_llm.prepare.evaluation.tasks.task import Task
from hybrid_llm.prepare.evaluation.template import TEMPLATE, Template


@dataclass(frozen=True, slots=True, kw_only=True)
class Choose(Task):
    """Multiple choice by log-probabilities: only models in this process can do it."""

    kind: ClassVar[str] = "choose"

    prompt: Template = key(TEMPLATE, "What stands before a choice, and a space.", hint="prompt: '{question}'")
    choices: str = key(Text("a column"), "The column with the list of choices.", default="choices")
    answer_column: str = key(
        Text("a column"), "The column with the right choice, or its number from 0.", default="answer", name="answer"
    )
    metrics: tuple[str, ...] = key(
        ListOf(Choice.of("accuracy", "accuracy_by_length"), least=1),
        "The metrics; `accuracy_by_length` divides log-probabilities by the bytes of the choice.",
        default=("accuracy", "accuracy_by_length"),
    )

    def items(self) -> list[Item]:
        """Contexts with their choices; ConfigError if a record has no right one."""
        return [self._item(record) for record in self.records()]

    def answer(self, subject: Subject, item: Item, setting: Setting, options: GenerateOptions) -> Answer:  # noqa: ARG002
        """Score every choice."""
        from hybrid_llm.prepare.evaluation.likelihood import loglikelihood

        scorer = subject.scorer()
        logs = [loglikelihood(scorer, item.text, f" {choice}").total for choice in item.choices]
        by_length = [log / max(1, len(choice.encode())) for log, choice in zip(logs, item.choices, strict=True)]
        best = logs.index(max(logs))
        values = {"by_length": float(by_length.index(max(by_length)))}
        return Answer(text=item.choices[best], values=values, backend=subject.name)

    def _item(self, record: Mapping[str, Any]) -> Item:
        choices, right = record.get(self.choices), record.get(self.answer_column)
        if isinstance(choices, list) and len(choices) > 1:
            texts = tuple(map(str, choices))
            gold = texts.index(right) if isinstance(right, str) and right in texts else _number(right)
            if 0 <= gold < len(texts):
                context = self.prompt.filled(record)
                return Item(text=context, choices=texts, gold=gold, references=(texts[gold],))
        columns = f"`{self.choices}` with a list of choices and `{self.answer_column}` with one of them"
        raise ConfigError(f"{self.data}: a record does not have {columns}, or its number", path=str(self.data))


def _number(value: object) -> int:
    try:
        return int(value)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError):
        return -1
