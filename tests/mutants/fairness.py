"""Planted faults of the engine's fairness: what one client costs the others, and whom a step is charged to."""

from __future__ import annotations

from tests.mutants.changes import drop, swap
from tests.mutants.mutant import Mutant

_FAIRNESS = "hybrid_llm.backends.node.engines.fairness"
_COMPOSER = "hybrid_llm.backends.node.engines.composer"

MUTANTS = (
    Mutant("a flood changes its own share", f"{_FAIRNESS}:shares", swap("sorted(__x)[-2]", "sorted(__x)[-1]")),
    Mutant(
        "a share exceeds the slots that are due",
        f"{_FAIRNESS}:shares",
        swap("min(level * weight(client), due[client] // 1)", "level * weight(client)"),
    ),
    Mutant(
        "weights do not count in shares",
        f"{_FAIRNESS}:shares",
        swap("min(level * weight(client), due[client] // 1)", "min(level, due[client] // 1)"),
    ),
    Mutant(
        "what one client does not want is lost",
        f"{_FAIRNESS}:divide",
        swap("wanted[client] * sum(map(weight, sharing)) > tokens * weight(client)", "True"),
    ),
    Mutant("requests beyond a share double a step", f"{_COMPOSER}:BEYOND", swap("0.07", "1.0")),
    Mutant("a piece of a prompt beyond a share costs its tokens only", f"{_COMPOSER}:PIECE", swap("8", "0")),
    Mutant(
        "what requests beyond a share took is not counted",
        f"{_COMPOSER}:StepComposer._take_beyond",
        drop("self._beyond -= token * (piece + tokens)"),
    ),
)
