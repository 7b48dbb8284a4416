"""Why a request takes its route, and how sure the model was of each token of the answer: through the app's own client.

The guard, the policy and the budget hold as they do for an app. Without `ask` nothing is sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hybrid_llm import tasks
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import NoEligibleBackend, RequestRejected
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.router.client import HybridLLM

_ALTERNATIVES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One token of an answer: its probability, and what the model might have written instead."""

    text: str = field(repr=False)
    probability: float
    instead: tuple[tuple[str, float], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer; of a cascade, those that were below the threshold come before the one that counts.

    Attributes:
        tokens: empty where the backend gives no probabilities.
        score: of a label, its probability among the labels.
    """

    backend: str
    text: str = field(repr=False)
    tokens: tuple[Written, ...] = field(default=(), repr=False)
    score: float | None = None
    confident: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """The route of a request.

    Attributes:
        decision: with what each rule read.
        replaced: kind of private value -> how many pseudonyms of it the cloud would see.
        seen_by_cloud: the text as the cloud would see it; None if it may not go there.
        answers: if the request was sent.
    """

    decision: Decision
    replaced: dict[str, int]
    seen_by_cloud: str | None = field(default=None, repr=False)
    answers: tuple[Answered, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        plain: dict[str, Any] = jsonable(self)  # type: ignore[assignment]
        return {**plain, "decision": self.decision.to_dict()}


def route(
    config: Path, text: str, *, ask: bool = False, labels: tuple[str, ...] = (), threshold: float = 0.0
) -> Routed:
    """Decide the route of *text* under the `hybrid.yaml` *config*, and with *ask* send it there.

    Args:
        config: The configuration of an app.
        text: What its user asks.
        ask: Whether the request is sent, to see how sure each token of the answer is.
        labels: If there are some, the answer is one of them, as by `hybrid_llm.tasks.classify`.
        threshold: A label less probable than this is asked of the next backend.

    Raises:
        ConfigError: the configuration is not valid.
        RoutingError: no backend is eligible, or all failed.
    """
    with HybridLLM.from_config(config, serve_metrics=False) as client:
        preview = client.preview(text)
        answers: tuple[Answered, ...] = ()
        if ask:
            answers = _classified(client, text, labels, threshold) if labels else (_generated(client, text),)
    return Routed(
        decision=preview.decision,
        replaced=dict(preview.replaced),
        seen_by_cloud=None if preview.shown is None else "\n".join(preview.shown),
        answers=answers,
    )


def _generated(client: HybridLLM, text: str) -> Answered:
    try:
        found = client.generate(text, logprobs=_ALTERNATIVES)
    except (NoEligibleBackend, RequestRejected):  # of a backend that gives no probabilities
        found = client.generate(text)
    return Answered(backend=found.backend, text=found.text, tokens=_tokens(found))


def _classified(client: HybridLLM, text: str, labels: tuple[str, ...], threshold: float) -> tuple[Answered, ...]:
    found = tasks.classify(text, labels, threshold=threshold, llm=client)
    return tuple(
        Answered(
            backend=each.generations[-1].backend,
            text=each.label,
            tokens=_tokens(each.generations[-1]),
            score=each.score,
            confident=each.is_confident,
        )
        for each in (*found.previous, found)
    )


def _tokens(answer: Generation) -> tuple[Written, ...]:
    return tuple(
        Written(
            text=each.token,
            probability=math.exp(each.logprob),
            instead=tuple((one.token, math.exp(one.logprob)) for one in each.top if one.token != each.token),
        )
        for each in answer.logprobs
    )
