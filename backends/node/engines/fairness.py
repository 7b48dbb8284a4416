"""Who is served next, in the engine's own time: a virtual clock for each client, and what a step costs.

After Sheng et al., *Fairness in Serving Large Language Models*, OSDI 2024 (VTC), with seconds in place of tokens: a
token in a step of its own costs far more than one that joins a step of others, by how much depends on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

_HEAD_START: Final = 1e-6
"""Seconds by which a client that had no work starts before the others: it is next."""
_FIXED: Final = 8.0
"""The fixed cost of a step in tokens, as long as only steps of one size were measured."""
_MOST_FIXED: Final = 4096.0
_LEAD: Final = 8.0
"""The least served client may get ahead by this many steps of one token: its prompt is read in chunks worth a step."""
_FASTER, _SLOWER = 1 / 2, 1 / 16
"""The part of a step in the average, by whether it is below or above: what disturbs a step only makes it longer."""
_OUTLIER: Final = 4.0
"""A step that takes longer than this many times the average counts as this many."""


class FairClock:
    """The seconds of the engine that each client was served, over its weight.

    A client that had no work starts as the next one, level with the least served: nobody saves up service while idle.
    """

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def __contains__(self, client: object) -> bool:
        return client in self._served

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
            self._served[client] = max(self._served.get(client, -math.inf), least - _HEAD_START)
        self._weights = {each: self._weights[each] for each in self._served if each in self._weights} | {client: weight}

    def charge(self, client: str, seconds: float) -> None:
        """Count *seconds* of the engine as served to *client*."""
        self._served[client] += seconds / self._weights[client]

    def level(self, clients: Iterable[str], seconds: float) -> None:
        """Count *seconds* of the engine as served to those of *clients* that were served least, until all are level."""
        weights, level = 0.0, -math.inf
        for client in sorted(clients, key=self._served.__getitem__):
            if level <= self._served[client] and weights:
                break
            seconds += self._served[client] * self._weights[client]
            weights += self._weights[client]
            level = seconds / weights
        for client in clients:
            self._served[client] = max(self._served[client], level)


def portions(clients: Collection[str], weight: Callable[[str], float], slots: int) -> dict[str, float]:
    """The part of the *slots* that is due to each of the *clients* by its weight; they sum to *slots*."""
    each = slots / sum(map(weight, clients))
    return {client: each * weight(client) for client in clients}


def divide(tokens: int, wanted: Mapping[str, int], weight: Callable[[str], float]) -> dict[str, int]:
    """Divide *tokens* between clients by weight; what one does not want, the others get.

    Parts are rounded up for the first of those that are to share what is left, and down for the last ones.
    """
    parts, sharing = {}, dict(wanted)
    for client in sorted(wanted, key=lambda each: wanted[each] / weight(each)):
        if wanted[client] * sum(map(weight, sharing)) > tokens * weight(client):
            break
        parts[client] = sharing.pop(client)
        tokens -= parts[client]
    weights = sum(map(weight, sharing))
    for client in sharing:
        parts[client] = min(sharing[client], math.ceil(tokens * weight(client) / weights))
        tokens, weights = tokens - parts[client], weights - weight(client)
    return parts


def shares(requests: Mapping[str, int], weight: Callable[[str], float], slots: int) -> dict[str, float]:
    """How many of its *requests* each client may bring into a step: as many, by weight, as any other client has.

    Whoever has most counts like the next one, so that sending more changes no share. No share exceeds the whole slots
    due to the client, or is below one; a client alone may bring all.
    """
    if len(requests) < 2:
        return dict.fromkeys(requests, math.inf)
    level = sorted(count / weight(client) for client, count in requests.items())[-2]
    due = portions(requests, weight, slots)
    return {client: max(1.0, min(level * weight(client), due[client] // 1)) for client in requests}


class StepCosts:
    """What a step costs, in seconds: a *fixed* part and one for each *token*, learnt from the steps that were measured.

    Steps of about one size are averaged, and a line is laid through the averages by least squares of relative errors.
    """

    def __init__(self) -> None:
        self.token = 1e-3
        self.fixed = _FIXED * self.token
        self._sizes: dict[int, tuple[float, float]] = {}
        """Average tokens and average seconds of steps, by the power of two of their tokens."""

    @property
    def lead(self) -> int:
        """Tokens that the least served client may compute in a step."""
        return int(_LEAD + (_LEAD - 1) * self.fixed / self.token)

    def learn(self, tokens: int, seconds: float) -> None:
        """Count a step over *tokens* that took *seconds*."""
        seconds = max(seconds, 1e-9)
        mean_tokens, mean_seconds = self._sizes.get(tokens.bit_length(), (float(tokens), seconds))
        seconds = min(seconds, _OUTLIER * mean_seconds)
        part = _FASTER if seconds < mean_seconds else _SLOWER
        mean_tokens += (tokens - mean_tokens) * part
        mean_seconds += (seconds - mean_seconds) * part
        self._sizes[tokens.bit_length()] = (mean_tokens, mean_seconds)
        self._fit()

    def _fit(self) -> None:
        points = [(tokens, seconds, seconds**-2) for tokens, seconds in self._sizes.values()]
        weights = sum(weight for *_, weight in points)
        tokens = sum(tokens * weight for tokens, _, weight in points) / weights
        seconds = sum(seconds * weight for _, seconds, weight in points) / weights
        slope = seconds / (tokens + _FIXED)
        if len(points) > 1:
            spread = sum((at - tokens) ** 2 * weight for at, _, weight in points)
            slope = sum((at - tokens) * (took - seconds) * weight for at, took, weight in points) / spread
        self.token = min(max(slope, seconds / (tokens + _MOST_FIXED)), seconds / tokens)
        self.fixed = seconds - self.token * tokens
