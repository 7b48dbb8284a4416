"""A task that measures how likely a decoder finds texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybrid_llm.core.fields import Choice, ListOf, Text, Whole, key
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.metric import Setting
from hybrid_llm.prepare.evaluation.perplexity import text_perplexity
from hybrid_llm.prepare.evaluation.subjects.subject import Subject
from hybrid_llm.prepare.evaluation.tasks.task import Task
from hybrid_llm.prepare.evaluation.template import column


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPerplexity(Task):
    """Perplexity of texts in sliding windows: only decoders in this process can do it."""

    kind: ClassVar[str] = "perplexity"

    text: str = key(Text("a column"), "The column with the text.", default="text")
    window: int = key(Whole(), "Tokens that are read at once; 0: at most 1,024.", default=0)
    stride: int = key(Whole(), "Tokens by which the window moves; 0: half a window.", default=0)
    metrics: tuple[str, ...] = key(
        ListOf(Choice.of("perplexity", "bits_per_byte"), least=1),
        "The metrics; only `bits_per_byte` compares models with different tokenizers.",
        default=("bits_per_byte", "perplexity"),
    )

    def items(self) -> list[Item]:
        """The texts."""
        return [Item(text=column(record, self.text)) for record in self.records()]

    def answer(self, subject: Subject, item: Item, setting: Setting, options: GenerateOptions) -> Answer:  # noqa: ARG002
        """Score the text."""
        found = text_perplexity(subject.scorer(), item.text, window=self.window, stride=self.stride)
        values = {"nats": found.nats, "tokens": float(found.tokens), "bytes": float(found.bytes)}
        return Answer(values=values, backend=subject.name)
