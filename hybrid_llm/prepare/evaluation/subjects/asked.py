"""A subject that answers through a client: a model, one backend, a policy, or a cascade."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hybrid_llm import tasks
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import GenerateOptions, Message
from hybrid_llm.prepare.evaluation.answers import Answer, Timing
from hybrid_llm.prepare.evaluation.decoders import Scorer
from hybrid_llm.prepare.evaluation.subjects.subject import About, Unsupported
from hybrid_llm.router.client import HybridLLM


class Asked:
    """Asks a client, so that guard, policy and budget hold as they do for an app.

    Args:
        name: In the report.
        about: What it is.
        client: What answers; it is closed with the subject.
        backend: The only backend that may answer; empty for the policy's choice.
        threshold: The least probability of a label to be content with; below, the next backend is asked.
        open_scorer: Opens the model whose probabilities can be read; None where there is none.
    """

    def __init__(
        self,
        name: str,
        about: About,
        client: HybridLLM,
        *,
        backend: str = "",
        threshold: float | None = None,
        open_scorer: Callable[[], Scorer] | None = None,
    ) -> None:
        self.name, self.about = name, about
        self._client, self._threshold, self._open_scorer = client, threshold, open_scorer
        self._only: GenerateOptions = {"backends": [backend]} if backend else {}
        self._scorer: Scorer | None = None
        if backend:
            self._labels = {one.name: one.capabilities.tasks for one in client.backends}[backend]
        else:
            self._labels = {}

    def generate(self, messages: Sequence[Message], options: GenerateOptions) -> Answer:
        """Answer a conversation."""
        if self._labels:
            raise Unsupported(f"{self.name} classifies, and writes no text")
        found = self._client.generate(list(messages), **self._own(options))
        return self._answer(found.text, None, (found,))

    def classify(self, text: str, labels: Sequence[str], options: GenerateOptions) -> Answer:
        """Give a text one of *labels*, as `hybrid_llm.tasks.classify` does."""
        if self._labels and not {label.lower() for label in labels} <= self._labels.get("classify", frozenset()):
            raise Unsupported(f"{self.name} does not know all labels of the task")
        found = tasks.classify(text, labels, threshold=self._threshold, llm=self._client, **self._own(options))
        earlier = tuple(generation for each in found.previous for generation in each.generations)
        return self._answer(found.label, found.score, (*earlier, *found.generations))

    def _answer(self, text: str, score: float | None, generations: Sequence[Generation]) -> Answer:
        """A folder's backend has a name of ours; the report has that of the subject."""
        found = _answer(text, score, generations)
        return replace(found, backend=self.about.backend or found.backend)

    def _own(self, options: GenerateOptions) -> GenerateOptions:
        return {**options, **self._only}

    def scorer(self) -> Scorer:
        """Reads probabilities of texts."""
        if self._open_scorer is None:
            raise Unsupported(f"{self.name}: probabilities of whole texts can be read of a decoder's folder alone")
        self._scorer = self._scorer or self._open_scorer()
        return self._scorer

    def close(self) -> None:
        """Release everything."""
        if self._scorer is not None:
            self._scorer.close()
        self._client.close()


def _answer(text: str, score: float | None, generations: Sequence[Generation]) -> Answer:
    """One answer of what may have taken several calls, one after the other."""
    timings = [each.timings for each in generations]
    timing = Timing(
        ttft_ms=timings[0].ttft_ms,
        total_ms=sum(each.total_ms for each in timings),
        tokens=sum(each.usage.completion_tokens for each in generations),
    )
    return Answer(
        text=text,
        score=score,
        timing=None if any(each.cached for each in generations) else timing,
        backend=generations[-1].backend,
        cloud=any(each.departures for each in generations),
        cost=sum(each.cost for each in generations),
    )
