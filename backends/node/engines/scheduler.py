"""Assigns slots to requests, first come, first served, and plans the tokens that each step reads. No tensors here.

Free slots keep the KV cache of their last request. A request takes the free slot with the longest prefix of its prompt
if that slot holds little else; otherwise the prefix is copied to the least recently used slot. Only slots that were
filled under the same salt are considered.
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

NO_SLOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTokens:
    """The content of a slot: *tokens* whose keys and values are in the KV cache, computed under *salt*."""

    salt: str = field(default="", repr=False)
    tokens: TokenIds[int] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The *slot* of a request, which starts from the first *shared* tokens of the slot *source*."""

    slot: int
    source: int
    shared: int


class FreeSlots:
    """The free slots, least recently used first, and their cached tokens.

    Args:
        slots: Number of slots, all free.
        rewinds: Whether a slot can be continued from any of its tokens, or only from the last.
    """

    def __init__(self, slots: int, *, rewinds: bool = True) -> None:
        self._cached: OrderedDict[int, CachedTokens] = OrderedDict((slot, CachedTokens()) for slot in range(slots))
        self._rewinds = rewinds

    def __len__(self) -> int:
        return len(self._cached)

    def put(self, slot: int, cached: CachedTokens) -> None:
        """Free *slot*, which keeps *cached*."""
        self._cached[slot] = cached

    def take(self, prompt: CachedTokens, running: Iterable[tuple[int, CachedTokens]] = ()) -> Assignment:
        """Assign a free slot, of which there is one, to *prompt*; its last token at least is left to compute.

        *running* holds the content of the other slots, which can be copied from.
        """
        slots = (*self._cached.items(), *running)
        source, shared = max(((slot, self._shared(cached, prompt)) for slot, cached in slots), key=itemgetter(1))
        slot = NO_SLOT
        if shared and source in self._cached:
            self._cached.move_to_end(source)
            if len(self._cached[source].tokens) <= shared + TAIL:  # it holds little else
                slot = source
        if slot == NO_SLOT:  # the first empty slot, else the least recently used one
            empty = [slot for slot, cached in self._cached.items() if not cached.tokens]
            slot = min(empty, default=next(iter(self._cached)))
        del self._cached[slot]
        return Assignment(slot=slot, source=source, shared=shared)

    def _shared(self, cached: CachedTokens, prompt: CachedTokens) -> int:
        if cached.salt != prompt.salt:
            return 0
        shared = shared_prefix(cached.tokens, prompt.tokens, most=len(prompt.tokens) - 1)
        continuable = self._rewinds or shared == len(cached.tokens)
        return shared if continuable and shared >= LEAST_SHARED else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive tokens of one slot that a step reads."""

    slot: int
    start: int
    """Tokens of the slot that are cached already."""
    ids: list[int] = field(repr=False)
    complete: bool
    """Whether it ends with the newest token, whose logits give the next one."""

    @property
    def end(self) -> int:
        """Tokens of the slot that are cached after the step."""
        return self.start + len(self.ids)


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """A request, its tokens so far, and how many of them are cached."""

    request: EngineRequest
    sampler: Sampler
    submitted: float
    """`time.monotonic()`."""
    tokens: list[int] = field(repr=False)
    """Prompt, then answer."""
    slot: int = NO_SLOT
    cached: int = 0
    reused: int = 0
    """Cached tokens that were computed for an earlier request."""
    verified: int = 0
    """Cached tokens whose keys and values have led to finite logits."""
    queue_ms: float = 0.0

    @property
    def pending(self) -> int:
        """Tokens that are not cached yet."""
        return len(self.tokens) - self.cached

    @property
    def generated(self) -> int:
        """Tokens of the answer."""
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def reserved(self) -> int:
        """Tokens of the prompt and of the longest answer, for which the slot has room."""
        return len(self.request.prompt_ids) + self.request.max_tokens

    @property
    def content(self) -> CachedTokens:
        """What its slot holds."""
        return CachedTokens(salt=self.request.salt, tokens=self.tokens[: self.cached])

    def segment(self, most: int) -> Segment:
        """The next segment to read, of at most *most* tokens."""
        ids = self.tokens[self.cached : self.cached + most]
        return Segment(slot=self.slot, start=self.cached, ids=ids, complete=len(ids) == self.pending)


class Scheduler:
    """Waiting requests, slots, and the token budget of a step.

    Every slot holds a whole context window, so a request is never preempted and the KV cache cannot overflow. With
    *reuse* off free slots keep no tokens, and the lowest one is taken, so that busy slots stay adjacent. *rewinds* is
    as in `FreeSlots`.
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

    def is_full(self, more: int = 0) -> bool:
        """Whether the queue is at its limit, *more* requests that are about to join it included."""
        return len(self.waiting) + more >= self._max_waiting + len(self._free)

    @property
    def reserved(self) -> int:
        """KV cache tokens reserved for the running requests."""
        return sum(sequence.reserved for sequence in self.running.values())

    def add(self, sequence: Sequence) -> None:
        """Queue a request for a slot."""
        self.waiting[sequence.request.request_id] = sequence

    def remove(self, request_id: str) -> None:
        """Drop a request and free its slot. Unknown ids are ignored."""
        self.waiting.pop(request_id, None)
        sequence = self.running.pop(request_id, None)
        if sequence is not None:
            self._free.put(sequence.slot, sequence.content if self._reuse else CachedTokens())
            sequence.slot = NO_SLOT

    def expired(self, now: float) -> list[Sequence]:
        """Running and waiting requests that have expired."""
        sequences = (*self.running.values(), *self.waiting.values())
        return [sequence for sequence in sequences if sequence.request.expires <= now]

    def admit(self, now: float) -> list[Assignment]:
        """Assign the free slots to the requests that wait longest; prefixes must be copied in the order returned."""
        assignments: list[Assignment] = []
        while self._free and self.waiting:
            sequence = self.waiting.pop(next(iter(self.waiting)))
            running = [(other.slot, other.content) for other in self.running.values()] if self._reuse else []
            assigned = self._free.take(CachedTokens(salt=sequence.request.salt, tokens=sequence.tokens), running)
            assignments.append(assigned)
            sequence.slot = assigned.slot
            sequence.cached = sequence.reused = sequence.verified = assigned.shared
            sequence.queue_ms = (now - sequence.submitted) * 1e3
            self.running[sequence.request.request_id] = sequence
        return assignments

    def plan(self) -> list[tuple[Sequence, Segment]]:
        """The next step's segments: the newest token of each answer, by slot, then prompts up to the budget."""
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
