"""The step `explain`: the same as the command, as a report of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.fields import Choice, Flag, ListOf, Text, Whole, key
from hybrid_llm.prepare.step import MODEL, Input, Makes, Outcome, Work

_METHODS = ("integrated gradients", "occlusion", "attention roll-out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain(Checked):
    """Explains what a model answers to a text, and measures how far the explanation holds."""

    makes: ClassVar[Makes] = Makes.REPORT

    model: Input = key(MODEL, "The decoder or classifier of texts.")
    text: str = key(Text(), "The text that the model reads; it stands in the report.")
    label: str = key(Text(), "The label of a classifier; by default, the one that it gives.", default="")
    continuation: str = key(
        Text(), "The continuation of a decoder; by default, the token that it would write next.", default=""
    )
    chat: bool = key(Flag(), "Whether the text is put into the chat template of the model.", default=False)
    methods: tuple[str, ...] = key(ListOf(Choice.of(*_METHODS), least=1), "The methods.", default=_METHODS)
    steps: int = key(
        Whole(8, 1024),
        "Steps of integrated gradients to begin with; they are doubled until the scores add up.",
        default=64,
        source="measured",
    )
    orders: int = key(Whole(1, 1000), "Random orders that the methods are compared with.", default=10)

    def run(self, work: Work) -> Outcome:
        """Explain, and write page and JSON.

        Raises:
            ConfigError: the model is unusable.
            InvalidRequest: the text or the target is unusable.
        """
        from hybrid_llm.prepare.explain.explaining import explain
        from hybrid_llm.prepare.explain.subject import Question
        from hybrid_llm.prepare.explain.writing import write

        found = explain(
            work.path(self.model),
            Question(text=self.text, label=self.label, continuation=self.continuation, chat=self.chat),
            methods=self.methods,
            steps=self.steps,
            orders=self.orders,
            seed=work.seed,
            report=work.progress,
        )
        write(work.out, found, None, self.text)
        metrics = {"probability": found.probability}
        for each in found.attributions:
            name = each.method.replace(" ", "_").replace("-", "_")
            metrics[f"{name}_deletion_area"] = each.faithfulness.deletion.area
            metrics[f"{name}_insertion_area"] = each.faithfulness.insertion.area
        return Outcome(metrics=metrics)
