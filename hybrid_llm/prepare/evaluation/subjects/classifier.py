"""A classifier of transformers as a subject."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hybrid_llm.core.request import GenerateOptions, Message
from hybrid_llm.prepare.evaluation.answers import Answer, Timing
from hybrid_llm.prepare.evaluation.classifiers import Classifier
from hybrid_llm.prepare.evaluation.decoders import Scorer
from hybrid_llm.prepare.evaluation.subjects.subject import About, Unsupported


class Classifying:
    """Gives labels, in this process."""

    def __init__(self, name: str, about: About, classifier: Classifier) -> None:
        self.name, self.about = name, about
        self._classifier = classifier

    def generate(self, messages: Sequence[Message], options: GenerateOptions) -> Answer:  # noqa: ARG002
        """It cannot."""
        raise Unsupported(f"{self.name} classifies, and writes no text")

    def classify(self, text: str, labels: Sequence[str], options: GenerateOptions) -> Answer:  # noqa: ARG002
        """Give a text one of *labels*, which are those of the model in any case of letters."""
        names = {label.lower(): label for label in labels}
        if not {label.lower() for label in self._classifier.labels} <= set(names):
            raise Unsupported(f"{self.name} knows other labels than the task")
        begun = time.perf_counter()
        (found,) = self._classifier.classify([text])
        passed = 1e3 * (time.perf_counter() - begun)
        timing = Timing(ttft_ms=passed, total_ms=passed, tokens=1)
        return Answer(text=names[found.label.lower()], score=found.score, timing=timing, backend=self.name)

    def scorer(self) -> Scorer:
        """It cannot."""
        raise Unsupported(f"{self.name} classifies, and has no probabilities of texts")

    def close(self) -> None:
        """Release everything."""
