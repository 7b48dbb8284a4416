"""Admits requests, fairly between clients, while slots and KV cache last. No tensors here.

Of the clients whose requests wait, the one that was served least is next, with its oldest request, as soon as a slot
and the blocks for its tokens are free. Answers get more blocks as they grow. A request gives its slot and its blocks
back where its client holds more than its share and another one less, or where the memory is full and its client was
served most: it waits again, with its answer so far, and is computed anew from its tokens.
"""

from __future__ import annotations

from collections import Counter

from hybrid_llm.backends.node.engines.blocks import BlockPool, Copy, Table
from hybrid_llm.backends.node.engines.composer import Planned, StepComposer
from hybrid_llm.backends.node.engines.fairness import FairClock, StepCosts, portions
from hybrid_llm.backends.node.engines.sequence import Sequence


class Scheduler:
    """Waiting and running requests, the blocks of the *pool*, and the tokens of the next step.

    At most *slots* requests run. Each of them alone must fit into the pool.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        slots: int,
        prefill_budget: int,
        max_waiting: int,
    ) -> None:
        self.pool = pool
        self.slots = slots
        self.running: dict[str, Sequence] = {}
        self.waiting: dict[str, Sequence] = {}
        self.costs = StepCosts()
        self._clock = FairClock()
        self._composer = StepComposer(self.costs, self._clock, slots=slots, prefill_budget=prefill_budget)
        self._max_waiting = max_waiting
        self._clients: set[str] = set()
        """One or two of those that have had a request."""

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.running or request_id in self.waiting

    def is_full(self, more: int = 0) -> bool:
        """Whether the queue is at its limit, *more* requests that are about to join it included."""
        return len(self.waiting) + more >= self._max_waiting + self.slots - len(self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a request."""
        sequence.table = Table(sequence.request.cache_salt)
        active = {each.client for each in (*self.running.values(), *self.waiting.values())}
        self._clock.join(sequence.client, sequence.request.weight, active)
        self.waiting[sequence.request.request_id] = sequence
        if len(self._clients) < 2:
            self._clients.add(sequence.client)

    def remove(self, request_id: str) -> None:
        """Drop a request and free its blocks, which keep its verified tokens. Unknown ids are ignored."""
        self.waiting.pop(request_id, None)
        sequence = self.running.pop(request_id, None)
        if sequence is not None:
            self.pool.close(sequence.table, sequence.tokens[: sequence.verified])

    def requeue(self, sequence: Sequence) -> None:
        """Take the slot and the blocks of a running request, which waits again, before the others of its client."""
        self.remove(sequence.request.request_id)
        sequence.cached = sequence.verified = 0
        self.waiting = {sequence.request.request_id: sequence, **self.waiting}

    def expired(self, now: float) -> list[Sequence]:
        """Running and waiting requests that have expired."""
        sequences = (*self.running.values(), *self.waiting.values())
        return [sequence for sequence in sequences if sequence.request.expires <= now]

    def admit(self, now: float) -> list[Copy]:
        """Give slots and blocks to the next requests; returns what must be copied, in this order, before the step."""
        copies: list[Copy] = []
        while self.waiting and len(self.running) < self.slots:
            sequence = self._next()
            # One block for each running answer stays free: what was just admitted is not thrown out in the next steps.
            opened = self.pool.open(sequence.table, sequence.tokens, longest=sequence.longest, spare=len(self.running))
            if opened is None:
                break
            del self.waiting[sequence.request.request_id]
            sequence.cached, copy = opened
            sequence.verified, sequence.admitted = sequence.cached, len(sequence.tokens)
            copies += [] if copy is None else [copy]
            if not sequence.started:
                sequence.started, sequence.reused = True, sequence.cached
                sequence.queue_ms = max(now - sequence.submitted, 0.0) * 1e3  # it may come within the step
            self._composer.join(sequence, self.running.values())
            self.running[sequence.request.request_id] = sequence
        return copies

    def grow(self) -> Sequence | None:
        """Give the running answers blocks for their next tokens.

        Returns the request that must give up its blocks where there are no others, and None when all have enough. It is
        one of the client that was served most, and of those the one that has computed least.
        """
        for sequence in sorted(self.running.values(), key=lambda each: self._clock[each.client]):
            while self.pool.needed(len(sequence.tokens)) > len(sequence.table.blocks):
                if not self.pool.extend(sequence.table, longest=sequence.longest):
                    return max(self.running.values(), key=lambda each: (self._clock[each.client], -len(each.tokens)))
        return None

    def overdrawn(self) -> Sequence | None:
        """The running request that must make room for the next one; None if none must.

        Its client holds more than its share; the other one holds less than its share. Of the requests of such clients
        it is the one that has computed least.
        """
        if not self.waiting:
            return None
        claimant = self._next()
        full = len(self.running) == self.slots
        over = self._over_slots(claimant.client) if full else self._over_memory(claimant)
        return min(over, key=lambda sequence: len(sequence.tokens), default=None)

    def _over_slots(self, claimant: str) -> list[Sequence]:
        """The requests of clients that hold more slots than their shares, if *claimant* has fewer."""
        held, shares = self._held(), self._shares(self.slots)
        if held[claimant] >= max(1, int(shares[claimant])):
            return []
        return [each for each in self.running.values() if held[each.client] > max(1.0, shares[each.client])]

    def _over_memory(self, claimant: Sequence) -> list[Sequence]:
        """The requests of clients that hold more blocks than their shares, if *claimant* lacks blocks of its share.

        Only those that have got on since they began to run, and whose clients are ahead by more than it takes to
        compute them anew: requests that need most of the memory take turns that are worth their cost.
        """
        lacking = self.pool.lacking(claimant.table, claimant.tokens) + len(self.running)
        if lacking <= 0:
            return []
        held: Counter[str] = Counter()
        for sequence in self.running.values():
            held[sequence.client] += len(sequence.table.blocks)
        shares = self._shares(self.pool.blocks)
        over = [
            each
            for each in self.running.values()
            if held[each.client] > shares[each.client]
            and len(each.tokens) > each.admitted
            and self._ahead(each.client, claimant.client) > len(each.tokens) * self.costs.token
        ]
        enough = sum(len(each.table.blocks) + 1 for each in over) >= lacking
        return over if enough and held[claimant.client] < shares[claimant.client] else []

    def _ahead(self, client: str, other: str) -> float:
        """Seconds of the engine that *client* was served beyond what would make it level with the *other*."""
        return (self._clock[client] - self._clock[other]) * self._clock.weight(client)

    def _next(self) -> Sequence:
        """The oldest waiting request of the client that was served least, of those that hold less than their shares."""
        held, shares = self._held(), self._shares(self.slots)

        def rank(sequence: Sequence) -> tuple[bool, float]:
            client = sequence.client
            return held[client] >= max(1, int(shares[client])), self._clock[client]

        return min(self.waiting.values(), key=rank)

    def _held(self) -> Counter[str]:
        return Counter(sequence.client for sequence in self.running.values())

    def _shares(self, total: int) -> dict[str, float]:
        """The part of *total* slots or blocks that is due to each client that has work."""
        clients = {sequence.client for sequence in (*self.running.values(), *self.waiting.values())}
        return portions(clients, self._clock.weight, total)

    def plan(self) -> list[Planned]:
        """The segments of the next step, those of one token first, by the origin of their tables."""
        return self._composer.compose(self.running.values(), short=self.slots > 1 and len(self._clients) > 1)
