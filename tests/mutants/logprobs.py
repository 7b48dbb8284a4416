"""Planted faults of log-probabilities: which tokens are listed, who is asked for them, and what pseudonyms become."""

from __future__ import annotations

from tests.mutants.changes import drop, never, swap
from tests.mutants.mutant import Mutant

_VISIBLE = "hybrid_llm.backends.calls.visible"
_TOKENS = "hybrid_llm.router.privacy.restored_tokens"
_PIPELINE = "hybrid_llm.router.pipeline"
_CACHE = "hybrid_llm.router.caching.guarded"
_NAMES = "hybrid_llm.router.caching.answers"

MUTANTS = (
    Mutant(
        "the tokens of reasoning are listed",
        f"{_VISIBLE}:VisibleTokens.show",
        never("self._groups and self._groups[0].end <= begin"),
    ),
    Mutant("the tokens of a stop text are listed", f"{_VISIBLE}:VisibleTokens.show", swap("over", "False")),
    Mutant(
        "text is given before the end of its token is known",
        f"{_VISIBLE}:VisibleTokens.show",
        never("split is not None"),
    ),
    Mutant(
        "the tokens of a pseudonym are given as the model wrote them",
        f"{_TOKENS}:HeldTokens._taken",
        swap("_restored(joined, spans) if spans else (joined.text, joined.tokens)", "(joined.text, joined.tokens)"),
    ),
    Mutant(
        "a token is given before it is known to be no pseudonym",
        f"{_TOKENS}:HeldTokens._taken",
        never("joined.end > settled"),
    ),
    Mutant(
        "a backend is asked for log-probabilities that it does not give",
        f"{_PIPELINE}:Pipeline._decide",
        drop("signals = unable(self.fleet.lacking(assessment.request), signals)"),
    ),
    Mutant(
        "the cache takes requests with and without log-probabilities for the same",
        f"{_NAMES}:entry_name",
        drop("names.append(repr(request.logprobs))"),
    ),
)
