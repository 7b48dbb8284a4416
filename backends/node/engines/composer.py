"""Composes a step: the tokens that it reads, fairly between the clients whose requests run. No tensors here.

The least served client goes first, and none computes more than its weight allows while another one waits: a request
that runs takes at most as many times longer as there are clients. A client with more requests than its share adds the
rest to a step only as far as the step takes 7 % longer by estimate. What it sends beyond its share thus slows the
others by less than a tenth, though no estimate is exact.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from hybrid_llm.backends.node.engines.fairness import FairClock, StepCosts, divide, shares
from hybrid_llm.backends.node.engines.sequence import Segment, Sequence

BEYOND: Final = 0.07
"""The part by which requests beyond the shares of their clients may lengthen a step, as far as its cost is known."""
PIECE: Final = 8
"""Tokens that a piece of a prompt costs besides its own, since each takes calls of attention (measured on a CPU)."""
_ROUNDING: Final = 1e-6
"""Tokens by which sums of costs may be wrong."""

Planned = tuple[Sequence, Segment]


@dataclass(slots=True, eq=False)
class _Work:
    """What a client has to compute in a step."""

    sequences: list[Sequence]
    """Those that the step does not read yet: answers in turn, then prompts in their order."""
    share: int
    """How many of them the client may bring into the step whatever the others have."""
    room: int = 0
    """Tokens that it may compute besides."""

    def prompt_tokens(self) -> int:
        """Tokens of the prompts that are within its share."""
        return sum(each.pending for each in self.sequences[: self.share] if each.pending > 1)


@dataclass(slots=True, eq=False)
class _Step:
    """A step that is being composed; it may read *prompts* more tokens of prompts."""

    prompts: int
    planned: list[Planned] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(len(segment.ids) for _, segment in self.planned)

    def take(self, work: _Work, *, count: int, prompts: int) -> int:
        """Add tokens of at most *count* sequences, and *prompts* of prompts at most; returns how many."""
        room, rest = work.room, []
        for sequence in work.sequences:
            reads = sequence.pending > 1
            most = min(work.room, prompts if reads else 1)
            if count and most > 0:
                tokens = self.add(work, sequence, most)
                count, prompts = count - 1, prompts - (tokens if reads else 0)
            else:
                rest.append(sequence)
        work.sequences = rest
        return room - work.room

    def add(self, work: _Work, sequence: Sequence, most: int) -> int:
        """Add at most *most* tokens of *sequence*; returns how many."""
        segment = sequence.segment(most)
        self.planned.append((sequence, segment))
        work.room -= len(segment.ids)
        self.prompts -= len(segment.ids) if sequence.pending > 1 else 0
        return len(segment.ids)


class StepComposer:
    """The token budget of a step, and the pace of the clients whose requests run.

    Args:
        costs: What steps cost.
        clock: Of all clients that have work; what a step computes for one is charged to it.
        slots: Number of slots.
        prefill_budget: Tokens of prompts that a step reads at most.
    """

    def __init__(self, costs: StepCosts, clock: FairClock, *, slots: int, prefill_budget: int) -> None:
        self._costs = costs
        self._pace = FairClock()
        self._clocks = (self._pace, clock)
        self._slots = slots
        self._prefill_budget = prefill_budget
        self._steps = 0
        self._beyond = 0.0
        """Seconds by which requests beyond the shares may still lengthen a step."""

    def join(self, sequence: Sequence, running: Iterable[Sequence]) -> None:
        """Let *sequence*, which has just been admitted, compete with the *running* ones."""
        self._pace.join(sequence.client, sequence.request.weight, {each.client for each in running})

    def compose(self, running: Collection[Sequence], *, short: bool) -> list[Planned]:
        """The segments of the next step, those of one token first, by the origin of their tables.

        The least served client reads, while it has the engine alone, so few tokens of a prompt that another client
        waits little, if *short*.
        """
        self._steps += 1
        step, work = _Step(self._prefill_budget), self._work(running)
        self._take_shares(step, work, lead=self._costs.lead if short else sys.maxsize)
        self._take_beyond(step, work)
        for clock in self._clocks:
            clock.level(work, self._costs.fixed)
        for sequence, segment in step.planned:
            sequence.turn = self._steps if segment.complete else sequence.turn
        return sorted(step.planned, key=lambda each: (len(each[1].ids) > 1, each[1].table.origin))

    def _work(self, running: Iterable[Sequence]) -> dict[str, _Work]:
        """By client, the least served one first."""
        own: dict[str, list[Sequence]] = {}
        for sequence in sorted(running, key=lambda each: (each.pending > 1, each.turn)):
            own.setdefault(sequence.client, []).append(sequence)
        counts = shares({client: len(sequences) for client, sequences in own.items()}, self._pace.weight, self._slots)
        return {
            client: _Work(own[client], self._whole(counts[client]))
            for client in sorted(own, key=self._pace.__getitem__)
        }

    def _take_shares(self, step: _Step, work: dict[str, _Work], *, lead: int) -> None:
        """Add each client's share of requests, as far as nobody waits longer for the others than it is due to wait."""
        wanted = {client: each.prompt_tokens() for client, each in work.items()}
        prompts, level = divide(step.prompts, wanted, self._pace.weight), math.inf
        for client, each in work.items():
            each.room = lead if level == math.inf else self._until(client, level)
            self._charge(client, step.take(each, count=each.share, prompts=prompts[client]))
            level = min(level, self._pace[client] + self._costs.fixed / self._pace.weight(client))

    def _take_beyond(self, step: _Step, work: dict[str, _Work]) -> None:
        """Add other requests: prompts first, so that the shares are of answers, which take less of a step.

        Time is saved up until it is enough for a piece of a prompt that is worth what a piece costs.
        """
        token = self._costs.token
        allowed = BEYOND * (self._costs.fixed + token * step.tokens)
        self._beyond = min(self._beyond + allowed, max(allowed, 2 * PIECE * token))
        for client, each in work.items():
            for sequence in sorted(each.sequences, key=lambda sequence: sequence.pending <= 1):
                piece = PIECE if sequence.pending > 1 else 0
                wanted = min(each.room, sequence.pending, step.prompts if piece else 1)
                if not wanted:
                    continue
                left = int(self._beyond / token + _ROUNDING) - piece
                if left < min(wanted, piece or 1):
                    return
                tokens = step.add(each, sequence, min(wanted, left))
                self._charge(client, tokens)
                self._beyond -= token * (piece + tokens)

    def _whole(self, share: float) -> int:
        """Requests of this step, so that those of all steps are *share* of each."""
        if share == math.inf:
            return sys.maxsize
        return int(share * self._steps + _ROUNDING) - int(share * (self._steps - 1) + _ROUNDING)

    def _until(self, client: str, level: float) -> int:
        """Tokens, the last one rounded up, that bring *client* to *level*."""
        seconds = (level - self._pace[client]) * self._pace.weight(client)
        return max(0, math.ceil(seconds / self._costs.token - _ROUNDING))

    def _charge(self, client: str, tokens: int) -> None:
        for clock in self._clocks:
            clock.charge(client, tokens * self._costs.token)
