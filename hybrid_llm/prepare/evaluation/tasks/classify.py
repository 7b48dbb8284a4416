"""A task whose answers are labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, ListOf, Text, key
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.core.taskform import CLASSIFY
from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.metric import Setting
from hybrid_llm.prepare.evaluation.subjects.subject import Subject
from hybrid_llm.prepare.evaluation.tasks.task import Task
from hybrid_llm.prepare.evaluation.template import column


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify(Task):
    """A label for each text: by an encoder, or by a generator as `hybrid_llm.tasks.classify` asks it."""

    kind: ClassVar[str] = "classify"

    text: str = key(Text("a column"), "The column with the text.", default="text")
    label: str = key(Text("a column"), "The column with the label.", default="label")
    labels: tuple[str, ...] = key(
        ListOf(Text("a label")), "All labels; default: those of the data, sorted.", default=()
    )
    metrics: tuple[str, ...] = key(
        ListOf(Choice.of("accuracy", "f1_macro", "f1_micro", "calibration_error"), least=1),
        "The metrics.",
        default=("accuracy", "f1_macro", "calibration_error"),
    )

    def items(self) -> list[Item]:
        """Texts with their labels; ConfigError if a record has another label."""
        items = [
            Item(text=column(record, self.text), references=(column(record, self.label),)) for record in self.records()
        ]
        foreign = {item.references[0] for item in items} - set(self.labels) if self.labels else ()
        if foreign:
            raise ConfigError(f"{self.data} has {len(foreign)} labels that are not under `labels`", path=str(self.data))
        return items

    def setting(self, items: Sequence[Item]) -> Setting:
        """The labels."""
        return Setting(labels=self.labels or tuple(sorted({item.references[0] for item in items})))

    def answer(self, subject: Subject, item: Item, setting: Setting, options: GenerateOptions) -> Answer:
        """Ask for the label, with its probability."""
        return subject.classify(item.text, setting.labels, options)

    @property
    def request_task(self) -> str:
        """What requests call their task."""
        return CLASSIFY
