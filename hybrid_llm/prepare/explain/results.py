"""What an explanation consists of. It holds the text that is explained, so it is written only where it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hybrid_llm.core.jsonable import jsonable


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token of the text.

    Attributes:
        text: its characters; empty where it continues a character of the token before it.
        gap: the characters before it that belong to no token.
    """

    text: str = field(repr=False)
    gap: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The probability of the target while tokens are taken away, or put back, one share after the other.

    Attributes:
        shares: of the tokens, 0 to 1.
        values: the probability at each.
        area: under the curve, 0 to 1.
    """

    shares: tuple[float, ...]
    values: tuple[float, ...]
    area: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Faithfulness:
    """How an order of tokens compares with random ones.

    Attributes:
        deletion: the most important tokens are replaced first; a small area is good.
        insertion: they are put back first; a large area is good.
        beats_deletion: the share of random orders with a larger area.
        beats_insertion: the share of random orders with a smaller area.
    """

    deletion: Curve
    insertion: Curve
    beats_deletion: float
    beats_insertion: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """The curves of random orders, on average, and how far their areas spread (standard deviation)."""

    orders: int
    deletion: Curve
    insertion: Curve
    deletion_spread: float
    insertion_spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """How well integrated gradients add up.

    Attributes:
        steps: on the way from the neutral input.
        whole: the difference between the log-probabilities that they shall add up to.
        delta: by how much they miss it.
        converged: whether that is at most 2 %, or 0.02.
    """

    steps: int
    whole: float
    delta: float
    converged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What one method finds.

    Attributes:
        method: its name.
        scores: of each piece: by how much it adds to the log-probability of the target; for roll-out, a share of the
            attention.
        faithfulness: how well the order of the scores predicts what the model does.
        convergence: of integrated gradients; else None.
    """

    method: str
    scores: tuple[float, ...]
    faithfulness: Faithfulness
    convergence: Convergence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a model answers a text as it does.

    Attributes:
        model: the name of its folder.
        target: what is explained: a label, or the continuation.
        probability: of the target; of a continuation of several tokens, the geometric mean of theirs.
        neutral: the probability where every piece is replaced by the neutral token.
        neutral_token: what takes the place of a piece.
        omitted: method -> why there is no result of it.
    """

    model: str
    kind: str
    target: str = field(repr=False)
    probability: float
    neutral: float
    neutral_token: str
    pieces: tuple[Piece, ...] = field(repr=False)
    attributions: tuple[Attribution, ...]
    random: Random
    omitted: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        plain: dict[str, Any] = jsonable(self)  # type: ignore[assignment]
        return plain
