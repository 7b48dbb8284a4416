"""Planted faults of presence and frequency penalties: what is counted, and who may answer."""

from __future__ import annotations

from tests.mutants.changes import drop, never, swap
from tests.mutants.mutant import Mutant

_PENALTY = "hybrid_llm.backends.penalties:AnswerPenalty"
_NODE = "hybrid_llm.backends.node.engines.sampler:Sampler"
_EDGE = "hybrid_llm.backends.edge.sampling:Sampler"
_EXCHANGE = "hybrid_llm.backends.grpc.exchange:Exchange"

MUTANTS = (
    Mutant(
        "a token counts once however often it comes",
        f"{_PENALTY}.add",
        swap("self._counts[token] + 1", "1"),
    ),
    Mutant("the partial answer does not count", f"{_PENALTY}.__init__", drop("for token in answer: ...")),
    Mutant("a node does not count its answer", f"{_NODE}.accept", never("self._answer is not None")),
    Mutant("a device does not count its answer", f"{_EDGE}.draw", drop("self._answer.add(token)")),
    Mutant(
        "a penalised choice is taken for the likeliest token",
        f"{_NODE}.plain",
        swap(
            "self._seen is not None or self._answer or self._constraint", "self._seen is not None or self._constraint"
        ),
    ),
    Mutant(
        "an older node answers as if no penalty were asked for",
        f"{_EXCHANGE}.receive",
        never("first and self.request.sampling.penalises_answer and not message.penalties"),
    ),
)
