"""Proposes the structure of a document in a grammar: names that it forces, and what stood between values before.

Values of extracted data come from the prompt, or from nowhere. Half of the tokens around them are names, quotes and
separators, and the model writes these the same way again and again: that is learnt from the answer itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, Self

_FORCED: Final = -1
"""Stands for tokens that the grammar forces, whichever they are: what follows one name follows the next one too."""


class Rules(Protocol):
    """The state of one answer inside its grammar."""

    def forced(self) -> list[int]:
        """The tokens that must follow, if only one text may."""

    def fork(self) -> Self:
        """A copy that goes its own way."""

    def follow(self, token: int) -> bool:
        """Advance by a token, if it is allowed; whether it is."""


class Structure:
    """Learns from the tokens of one answer that *rules* has taken."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._forced = list(rules.forced())
        self._followers: dict[int | None, tuple[int, bool]] = {}
        self._last: int | None = None

    def push(self, token: int) -> None:
        """Take the next token of the answer; *rules* is behind it."""
        is_forced = self._forced[:1] == [token]
        self._forced = self._forced[1:] if is_forced else []
        self._forced = self._forced or list(self._rules.forced())
        symbol = _FORCED if is_forced else token
        if self._last is not None:
            before = self._followers.get(self._last, (symbol, True))[0]
            self._followers[self._last] = (symbol, before == symbol)
        self._last = symbol

    def proposal(self, most: int) -> list[int]:
        """At most *most* tokens that may follow: forced ones, and those that followed last time and were not varied."""
        rules, symbol, found = self._rules.fork(), self._last, list[int]()
        while len(found) < most:
            tokens = rules.forced()
            follower, sure = (_FORCED, True) if tokens else self._followers.get(symbol, (0, False))
            if not tokens and (not sure or follower == _FORCED):
                break
            tokens, symbol = tokens or [follower], follower
            allowed = follow(rules, tokens)
            found += allowed
            if len(allowed) < len(tokens):
                break
        return found[:most]

    def allowed(self, tokens: Sequence[int]) -> list[int]:
        """The first of *tokens* that may follow."""
        return follow(self._rules.fork(), tokens)


def follow(rules: Rules, tokens: Sequence[int]) -> list[int]:
    """Advance by *tokens* up to the first that is not allowed; returns those before it."""
    found = []
    for token in tokens:
        if not rules.follow(token):
            break
        found.append(token)
    return found
