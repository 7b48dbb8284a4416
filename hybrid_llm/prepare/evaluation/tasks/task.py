"""What all tasks of a suite have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hybrid_llm.core.fields import File, ListOf, Text, Whole, key
from hybrid_llm.core.limits import DEADLINE_S
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.metric import METRICS, Setting
from hybrid_llm.prepare.evaluation.records import read_records

if TYPE_CHECKING:
    from hybrid_llm.prepare.evaluation.subjects.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(ABC):
    """What every task has."""

    kind: ClassVar[str]

    name: str = ""
    data: Path = key(File(), "JSON lines, a CSV with a header, or a data folder.", hint="data: items.jsonl")
    split: str = key(Text("a split"), "Of a data folder; default: `test`, else `validation`.", default="")
    limit: int = key(Whole(), "Use the first items alone; 0 uses all.", default=0)
    task: str = key(
        Text("a name"), "What requests call their task, which policies read; default: `chat`.", default="chat"
    )
    privacy: tuple[str, ...] = key(
        ListOf(Text("a privacy tag")), "Privacy tags of its requests, beside those of the suite.", default=()
    )
    deadline_s: float = key(DEADLINE_S, "Seconds in which an item must be answered.", default=60.0)
    quality: str = key(Text("a metric"), "The metric that policies read; default: the first that can be.", default="")
    metrics: tuple[str, ...] = ()

    @abstractmethod
    def items(self) -> list[Item]:
        """The items; ConfigError if the data is unusable."""

    @abstractmethod
    def answer(self, subject: Subject, item: Item, setting: Setting, options: GenerateOptions) -> Answer:
        """Ask *subject* about *item*; raises what `generate` raises."""

    def setting(self, items: Sequence[Item]) -> Setting:  # noqa: ARG002
        """What the metrics know of the task."""
        return Setting()

    def compared(self, text: str) -> str:
        """The part of an answer or a reference that metrics see."""
        return text

    @property
    def request_task(self) -> str:
        """What requests call their task."""
        return self.task

    @property
    def quality_metric(self) -> str:
        """The metric that policies read; empty if none of this task goes from 0 to 1."""
        usable = (name for name in self.metrics if METRICS.get(name).scale)
        return self.quality or next(usable, "")

    def records(self) -> list[dict[str, Any]]:
        """The records of the data; ConfigError if it is unusable."""
        return read_records(self.data, self.split, self.limit)
