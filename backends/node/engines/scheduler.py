"""Who gets a slot, and what the next step reads: first come, first served. Knows no model and computes nothing."""

from __future__ import annotations

from hybrid_llm.backends.node.engines.sequence import NO_SLOT, Segment, Sequence
from hybrid_llm.backends.node.engines.slots import FreeSlots, Held, Place

__all__ = ["Scheduler"]


class Scheduler:
    """Waiting requests, slots, and the token budget of a step.

    A slot holds *capacity* tokens, so whoever has a slot can end there: nobody is preempted, and the KV cache cannot
    overflow. A free slot keeps what it holds, for whoever begins alike; with *reuse* off it does not, and the lowest
    free slot is taken, which keeps the used ones side by side. *rewinds* is as `FreeSlots` has it.
    """

    def __init__(
        self, *, slots: int, prefill_budget: int, max_waiting: int, reuse: bool = True, rewinds: bool = True
    ) -> None:
        self.slots = slots
        self.running: dict[str, Sequence] = {}
        self.waiting: dict[str, Sequence] = {}
        self._free = FreeSlots(slots, rewinds=rewinds)
        self._reuse = reuse
        self._prefill_budget = prefill_budget
        self._max_waiting = max_waiting

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.running or request_id in self.waiting

    @property
    def full(self) -> bool:
        """Whether another request would wait in a queue that is at its limit."""
        return len(self.waiting) >= self._max_waiting + len(self._free)

    @property
    def promised(self) -> int:
        """KV tokens that the running requests may need, their prompts and longest answers."""
        return sum(sequence.promised for sequence in self.running.values())

    def add(self, sequence: Sequence) -> None:
        """Let it wait for a slot."""
        self.waiting[sequence.request.request_id] = sequence

    def remove(self, request_id: str) -> None:
        """Forget a request; its slot is free. Unknown ids are ignored."""
        self.waiting.pop(request_id, None)
        sequence = self.running.pop(request_id, None)
        if sequence is not None:
            self._free.put(sequence.slot, sequence.held if self._reuse else Held())
            sequence.slot = NO_SLOT

    def expired(self, now: float) -> list[Sequence]:
        """Those whose time is over, running or waiting."""
        everyone = (*self.running.values(), *self.waiting.values())
        return [sequence for sequence in everyone if sequence.request.expires <= now]

    def admit(self, now: float) -> list[Place]:
        """Give the free slots to those who wait longest; tells their places, to be made ready in this order."""
        places: list[Place] = []
        while self._free and self.waiting:
            request_id = next(iter(self.waiting))
            sequence = self.waiting.pop(request_id)
            places.append(self._place(sequence))
            sequence.queue_ms = (now - sequence.submitted) * 1e3
            self.running[request_id] = sequence
        return places

    def _place(self, sequence: Sequence) -> Place:
        running = [(other.slot, other.held) for other in self.running.values()] if self._reuse else []
        place = self._free.take(Held(salt=sequence.request.salt, tokens=sequence.tokens), running)
        sequence.settle(place)
        return place

    def plan(self) -> list[tuple[Sequence, Segment]]:
        """What the next step reads: the newest token of each answer, by slot, then prompts up to the budget."""
        decoding = [sequence for sequence in self.running.values() if sequence.pending == 1]
        decoding.sort(key=lambda sequence: sequence.slot)
        return [(sequence, sequence.segment(1)) for sequence in decoding] + self._prefill()

    def _prefill(self) -> list[tuple[Sequence, Segment]]:
        planned: list[tuple[Sequence, Segment]] = []
        budget = self._prefill_budget
        for sequence in self.running.values():
            if budget > 0 and sequence.pending > 1:
                segment = sequence.segment(budget)
                budget -= len(segment.ids)
                planned.append((sequence, segment))
        return planned
