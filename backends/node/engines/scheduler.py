"""The free slots, what each still holds, and which one a request takes so that little is computed twice. No tensors.

A request begins where the longest beginning of its prompt lies already. It goes on in that slot if little else would be
lost there; else that beginning is copied to the slot that has been free for longest. Only what was written under the
same salt is ever looked at.

One request on its way through the engine, and the piece of it that a step computes. State only, no decisions.

Who gets a slot, and what the next step reads: first come, first served. Knows no model and computes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as TokenIds
from dataclasses import dataclass, field
from operator import itemgetter

from hybrid_llm.backends.node.engine import EngineRequest
from hybrid_llm.backends.node.engines.sampler import Sampler
from hybrid_llm.backends.text import LEAST_SHARED, TAIL, shared_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a slot holds: *tokens* whose keys and values are in the cache, written under *salt*."""

    salt: str = field(default="", repr=False)
    tokens: TokenIds[int] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a request runs: in *slot*, once the first *shared* tokens of *source* are there."""

    slot: int
    source: int
    shared: int


class FreeSlots:
    """Slots that nobody runs in, the one that has been free for longest first; those that hold nothing by number.

    Args:
        slots: How many there are, all free.
        rewinds: Whether a slot may go on from any of its tokens, or from the last one only.
    """

    def __init__(self, slots: int, *, rewinds: bool = True) -> None:
        self._held: OrderedDict[int, Held] = OrderedDict((slot, Held()) for slot in range(slots))
        self._rewinds = rewinds

    def __len__(self) -> int:
        return len(self._held)

    def put(self, slot: int, held: Held) -> None:
        """Free *slot*, which holds *held*."""
        self._held[slot] = held

    def take(self, wanted: Held, running: Iterable[tuple[int, Held]] = ()) -> Place:
        """A slot for the prompt *wanted*, of which at least the last token is left to compute.

        *running* is what the slots hold that somebody runs in: they can be copied from. There is a free slot.
        """
        held = (*self._held.items(), *running)
        source, shared = max(((slot, self._shared(there, wanted)) for slot, there in held), key=itemgetter(1))
        if shared and source in self._held:
            self._held.move_to_end(source)
        slot = source if shared and self._spends_little(source, shared) else self._idlest()
        del self._held[slot]
        return Place(slot=slot, source=source, shared=shared)

    def _spends_little(self, slot: int, shared: int) -> bool:
        """Whether *slot* is free, and all but the end of what it holds is shared."""
        return slot in self._held and len(self._held[slot].tokens) <= shared + TAIL

    def _idlest(self) -> int:
        """The first slot that holds nothing, else the one that nobody has used for longest."""
        empty = [slot for slot, held in self._held.items() if not held.tokens]
        return min(empty, default=next(iter(self._held)))

    def _shared(self, held: Held, wanted: Held) -> int:
        if held.salt != wanted.salt:
            return 0
        shared = shared_prefix(held.tokens, wanted.tokens, most=len(wanted.tokens) - 1)
        goes_on = self._rewinds or shared == len(held.tokens)
        return shared if goes_on and shared >= LEAST_SHARED else 0


NO_SLOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive tokens of one slot that a step reads."""

    slot: int
    start: int
    """Tokens of the slot that are in the cache already."""
    ids: list[int] = field(repr=False)
    complete: bool
    """It reaches the newest token: its last position gives the next one."""

    @property
    def end(self) -> int:
        """Tokens of the slot that are in the cache after the step."""
        return self.start + len(self.ids)


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """A request, its tokens so far, and how many of them the cache holds."""

    request: EngineRequest
    sampler: Sampler
    submitted: float
    """`time.monotonic()`."""
    tokens: list[int] = field(repr=False)
    """Prompt, then answer."""
    slot: int = NO_SLOT
    cached: int = 0
    reused: int = 0
    """Of them, those that the slot was given: they were computed for another request."""
    proven: int = 0
    """Of them, those that finite logits were made from."""
    queue_ms: float = 0.0

    def settle(self, place: Place) -> None:
        """Take a slot, with what it brings."""
        self.slot = place.slot
        self.cached = self.reused = self.proven = place.shared

    @property
    def pending(self) -> int:
        """Tokens that the cache does not hold yet."""
        return len(self.tokens) - self.cached

    @property
    def generated(self) -> int:
        """Tokens of the answer."""
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def promised(self) -> int:
        """Tokens of prompt and longest answer: what the cache must hold for it."""
        return len(self.request.prompt_ids) + self.request.max_tokens

    @property
    def held(self) -> Held:
        """What its slot holds."""
        return Held(salt=self.request.salt, tokens=self.tokens[: self.cached])

    def segment(self, most: int) -> Segment:
        """The next piece to read, of *most* tokens."""
        ids = self.tokens[self.cached : self.cached + most]
        return Segment(slot=self.slot, start=self.cached, ids=ids, complete=len(ids) == self.pending)


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
