"""The record of a checked rule, and the scores of `rank`; what follows from them is decided in `policies.policy`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hybrid_llm.policies.nodes import Node
from hybrid_llm.router.signals import BackendState
from hybrid_llm.router.types import Request

__all__ = ["Rule", "rank_scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """*targets* of an `exclude` are the backends it takes out; of `prefer` and `rank`, all backends in order."""

    index: int
    kind: str
    place: str
    targets: tuple[str, ...]
    because: str
    text: str = ""
    condition: Node | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The rule as reports name it."""
        return f"rules[{self.index}]"


def rank_scores(
    weights: Mapping[str, float], request: Request, states: Mapping[str, BackendState], names: Iterable[str]
) -> dict[str, float]:
    """The weighted sum of latency (ms), cost (per request) and energy (J) of each backend; the least is best.

    A sum that is not a number counts as infinite, so that a backend of which too little is known goes last.
    """
    return {name: _score(weights, request, states[name]) for name in names}


def _score(weights: Mapping[str, float], request: Request, state: BackendState) -> float:
    try:
        thousands = (request.prompt_tokens + request.max_tokens) / 1000.0
        parts = {
            "latency": state.predicted_ttft_ms + state.predicted_tpot_ms * request.max_tokens,
            "cost": state.cost_per_1k_tokens * thousands,
            "energy": state.energy_per_1k_tokens_j * thousands,
        }
        total = math.fsum(weight * parts[name] for name, weight in weights.items() if weight)
    except (ArithmeticError, ValueError, TypeError):
        return math.inf
    return math.inf if math.isnan(total) else total
