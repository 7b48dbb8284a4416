"""The guardrail that needs no download: it refuses what `harms` describes. docs/guardrails.md says how much that is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, ListOf, key
from hybrid_llm.core.protocols import ALLOW, Direction, Verdict
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.router.guardrails.harms import CATEGORIES, gate, rules
from hybrid_llm.router.guardrails.normal import pieces, readings

_WINDOW: Final = 160
"""Characters: the longest passage that a rule describes."""
_PIECE: Final = 4096
"""Characters that are searched at once."""


class DefaultGuardrail:
    """Refuses hate, threats, and how to harm oneself or others, in English; *categories* are all, or those named."""

    window: Final = _WINDOW
    quick: Final = True

    def __init__(self, categories: Collection[str] = CATEGORIES, *, name: str = "default") -> None:
        """Choose what to refuse.

        Raises:
            ConfigError: there is no such category, or none is named.
        """
        unknown = sorted(set(categories) - set(CATEGORIES))
        if unknown or not categories or isinstance(categories, str):
            known = ", ".join(CATEGORIES)
            raise ConfigError(f"the default guardrail has the categories {known}; name one or more of these")
        self.name = name
        self._gate = gate()
        self._rules = [rule for rule in rules() if rule.verdict.category in categories]

    def check(self, text: str, direction: Direction, metadata: RequestMetadata) -> Verdict:  # noqa: ARG002  # the Protocol's signature
        """Refuse *text* if a rule finds something in it that nothing around it excuses."""
        found = (self._judge(reading) for piece in pieces(text, _PIECE, _WINDOW) for reading in readings(piece))
        return next((verdict for verdict in found if verdict.refuses), ALLOW)

    def _judge(self, text: str) -> Verdict:
        if self._gate.search(text) is None:  # as with most texts
            return ALLOW
        return next((rule.verdict for rule in self._rules if rule.is_in(text)), ALLOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultSpec:
    """Refuses hate, threats, and how to harm oneself or others, in English; it needs no model."""

    name: str
    categories: tuple[str, ...] = key(
        ListOf(Choice.of(*CATEGORIES), least=1), "What is refused; by default all.", default=CATEGORIES
    )

    def open(self) -> DefaultGuardrail:
        """Make the guardrail."""
        return DefaultGuardrail(self.categories, name=self.name)
