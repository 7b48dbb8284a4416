"""A subject for tests that answers from a table, and fails where the table has an error."""

from __future__ import annotations

from collections.abc import Mapping

from hybrid_llm.prepare.evaluation.answers import Answer, Item, Timing
from hybrid_llm.prepare.evaluation.subjects.subject import About, Unsupported


class Table:
    """Answers the last message, or the text, by a table; it counts what it was asked."""

    def __init__(self, name: str, answers: Mapping[str, Answer | BaseException]) -> None:
        self.name, self.about = name, About(what="a table", backend=name, digests={name: "d"})
        self._answers, self.asked = answers, 0

    def generate(self, messages, options):
        return self._get(messages[-1].content)

    def classify(self, text, labels, options):
        return self._get(text)

    def scorer(self):
        raise Unsupported("a table has no probabilities")

    def close(self):
        pass

    def _get(self, text):
        self.asked += 1
        found = self._answers[text]
        if isinstance(found, BaseException):
            raise found
        return found


def answered(text: str, score: float | None = None) -> Answer:
    return Answer(text=text, score=score, timing=Timing(ttft_ms=1.0, total_ms=3.0, tokens=3), backend="table")


def items(*references: str | tuple[str, ...]) -> list[Item]:
    return [Item(references=(one,) if isinstance(one, str) else one) for one in references]
