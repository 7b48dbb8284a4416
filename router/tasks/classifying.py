"""The work of `classify`: a label with its probability, and another backend where that is too low."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from hybrid_llm.core.errors import BackendError, OutputInvalid, RoutingError
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import GenerateOptions, Message
from hybrid_llm.core.taskform import CLASSIFY, LABEL, classify_schema
from hybrid_llm.router.tasks import prompts
from hybrid_llm.router.tasks.pieces import Piece, asked_in_pieces
from hybrid_llm.router.tasks.results import Classification
from hybrid_llm.router.tasks.scores import chosen_log, label_logs, mean_logs, shares
from hybrid_llm.router.tasks.session import Session

if TYPE_CHECKING:
    from hybrid_llm.router.tasks.calibration import Calibration

_ALTERNATIVES: Final = 20
_AROUND: Final = 24
"""Tokens of an answer beside the bytes of its label."""
_BELOW: Final = "its answer was below the threshold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify:
    """One of some labels; of a long text, the likeliest by the mean over its pieces."""

    text: str
    labels: tuple[str, ...]
    threshold: float | None = None
    scores: bool = True
    exact: bool = False
    calibration: Calibration | None = None

    async def __call__(self, session: Session) -> Classification:
        """Do it with the answers of *session*."""
        result = await self._answered(session, {})
        excluded: dict[str, str] = {}
        while not result.is_confident:
            excluded |= {each.backend: _BELOW for each in result.generations}
            if not session.others(excluded):
                break
            try:
                following = await self._answered(session, excluded)
            except (RoutingError, BackendError):
                break  # no other backend may answer, or can in time: what there is, is the answer
            earlier = (*result.previous, replace(result, previous=()))
            result = replace(following, previous=earlier)
        return result

    async def _answered(self, session: Session, excluded: Mapping[str, str]) -> Classification:
        pieces = await asked_in_pieces(session, self.text, self._request, excluded=excluded)
        generations = [piece.generation for piece in pieces]
        if not self.scores:
            return Classification(label=_most(list(map(_label_of, generations))), generations=tuple(generations))
        found = []
        for piece in pieces:
            logs, more = await self._logs(session, piece, excluded)
            generations += more
            found.append((len(piece.text.encode("utf-8", "surrogatepass")), logs))
        return self._classification(mean_logs(found), generations)

    def _classification(self, logs: Mapping[str, float], generations: Sequence[Generation]) -> Classification:
        if self.calibration is not None:
            logs = self.calibration.scaled(generations[0].backend, logs)
        scores = shares(logs)
        label = next(iter(scores))
        return Classification(
            label=label,
            score=scores[label],
            scores=scores,
            is_confident=self.threshold is None or scores[label] >= self.threshold,
            generations=tuple(generations),
        )

    async def _logs(
        self, session: Session, piece: Piece, excluded: Mapping[str, str]
    ) -> tuple[dict[str, float], list[Generation]]:
        """The labels' logarithms about a piece, and the further answers that they took, from the same backend."""
        generation = piece.generation
        logs, bounded = label_logs(generation.logprobs, self.labels, _label_of(generation))
        if not logs:
            message = f"the answer of {generation.backend} has no log-probabilities for its label"
            raise OutputInvalid(message, backend=generation.backend, reason="schema")
        more = []
        for label in bounded if self.exact else ():
            prompt, own, pin = self._request(piece.text)[0], self._own([label]), generation.backend
            answer = await session.ask(prompt, own, excluded=excluded, pin=pin)
            more.append(answer)
            logs[label] = chosen_log(answer.logprobs, label, self.labels)
        return logs, more

    def _request(self, text: str) -> tuple[list[Message], GenerateOptions]:
        return prompts.classify(text, self.labels), self._own(self.labels)

    def _own(self, labels: Sequence[str]) -> GenerateOptions:
        size = max(len(label.encode()) for label in labels)
        own: GenerateOptions = {"task": CLASSIFY, "max_tokens": size + _AROUND, "temperature": 0.0}
        own["output_schema"] = classify_schema(labels)
        if self.scores:
            own["logprobs"] = _ALTERNATIVES
        return own


def _label_of(generation: Generation) -> str:
    return cast("dict[str, str]", generation.parsed)[LABEL]


def _most(labels: Sequence[str]) -> str:
    """The label of most pieces, the first of them where several have as many."""
    return max(labels, key=labels.count)
