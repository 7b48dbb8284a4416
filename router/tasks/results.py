"""What tasks return. Their texts never show in `repr`; each holds the answers that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid_llm.core.generation import FinishReason, Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What every result has."""

    generations: tuple[Generation, ...]
    """The answers that were needed, in order: one, unless the text was worked on in pieces or a label escalated."""

    @property
    def generation(self) -> Generation:
        """The last answer: its backend, usage and decision."""
        return self.generations[-1]

    @property
    def backend(self) -> str:
        """The backend of the last answer."""
        return self.generation.backend

    @property
    def is_complete(self) -> bool:
        """Whether no answer was cut off by `max_tokens` or for its repetitions."""
        return all(each.finish_reason is FinishReason.STOP for each in self.generations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(TaskResult):
    """A summary."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation(TaskResult):
    """A translation; *language* is the one that was asked for."""

    text: str = field(repr=False)
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(TaskResult):
    """The answer to a question; *text* is None where the model finds none in the text."""

    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction(TaskResult):
    """What was extracted: JSON values, or an instance of the pydantic model that was passed as the schema."""

    value: object = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(TaskResult):
    """The label of a text."""

    label: str
    score: float | None = None
    """Its probability, 0 to 1, among the labels; None if no scores were asked for."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Label -> probability; together they are 1. Empty if no scores were asked for."""
    is_confident: bool = True
    """Whether the score reaches the threshold; true without one."""
    previous: tuple[Classification, ...] = ()
    """The answers before it that were below the threshold, in order."""
