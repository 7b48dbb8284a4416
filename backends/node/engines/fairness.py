"""Who is served next: a virtual clock for each client, which counts the tokens it was served, divided by its weight.

After Sheng et al., *Fairness in Serving Large Language Models*, OSDI 2024 (VTC). A client that has been idle starts one
token before the lowest clock of those with work: it is next, but nobody saves up service while idle.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ANSWER_COST: Final = 2.0
"""A token of an answer counts as two of a prompt, since prompts are read many tokens at a time (as in VTC)."""


class FairClock:
    """The tokens served to each client over its weight."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def __getitem__(self, client: str) -> float:
        return self._served[client]

    def weight(self, client: str) -> float:
        """The weight with which *client* joined last."""
        return self._weights[client]

    def join(self, client: str, weight: float, active: Iterable[str]) -> None:
        """Let *client*, which had no work until now, compete with the *active* ones."""
        others = {each: self._served[each] for each in active}
        least = min(others.values(), default=0.0)
        if not others:
            self._served.clear()
        elif client not in others:
            # A clock behind all active ones would be lifted anyway: it need not be remembered.
            self._served = {each: at for each, at in self._served.items() if at > least or each in others}
        if client not in others:
            self._served[client] = max(self._served.get(client, 0.0), least - 1.0)  # not level: it is next
        self._weights = {each: self._weights[each] for each in self._served if each in self._weights} | {client: weight}

    def charge(self, client: str, cost: float) -> None:
        """Count *cost* tokens as served to *client*."""
        self._served[client] += cost / self._weights[client]
