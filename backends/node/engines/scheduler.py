"""Assigns slots to requests, fairly between clients, and plans the tokens that each step reads. No tensors here.

Of the clients whose requests wait, the one that was served least gets the next slot, and its oldest request that slot.
Where none is free, a client that holds more than its share of them gives one back: that request waits again, with its
answer so far, and is computed anew from its tokens. A step computes for a client no more than brings it level with the
least served one that has a slot: a request in a slot takes at most as many times longer as there are clients.

Free slots keep the KV cache of their last request. A request takes the free slot with the longest prefix of its prompt
if that slot holds little else; otherwise the prefix is copied to the least recently used slot. Only slots that were
filled under the same salt are considered.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as TokenIds
from dataclasses import dataclass, field
from operator import itemgetter

from hybrid_llm.backends.node.engine import EngineRequest
from hybrid_llm.backends.node.engines.fairness import FairClock, StepCosts
from hybrid_llm.backends.node.engines.sampler import Sampler
from hybrid_llm.backends.text import LEAST_SHARED, TAIL, shared_prefix
from hybrid_llm.backends.token_names import TokenScores

NO_SLOT = -1
_ROUNDING = 1e-6
"""Tokens by which sums of costs may be wrong."""


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
    scores: TokenScores | None = field(default=None, repr=False)
    """Of the token that was drawn last, if the request asks for them."""
    slot: int = NO_SLOT
    cached: int = 0
    reused: int = 0
    """Cached tokens that were computed for an earlier request."""
    verified: int = 0
    """Cached tokens whose keys and values have led to finite logits."""
    started: bool = False
    """Whether it has had a slot before."""
    queue_ms: float = 0.0

    @property
    def client(self) -> str:
        """Whose request it is."""
        return self.request.client

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

    Every slot holds a whole context window, so the KV cache cannot overflow. With
    *reuse* off free slots keep no tokens, and the lowest one is taken, so that busy slots stay adjacent. *rewinds* is
    as in `FreeSlots`.
    """

    def __init__(
        self,
        *,
        slots: int,
        prefill_budget: int,
        max_waiting: int,
        reuse: bool = True,
        rewinds: bool = True,
    ) -> None:
        self.slots = slots
        self.running: dict[str, Sequence] = {}
        self.waiting: dict[str, Sequence] = {}
        self._free = FreeSlots(slots, rewinds=rewinds)
        self._reuse = reuse
        self._prefill_budget = prefill_budget
        self.costs = StepCosts()
        self._clock = FairClock()
        self._pace = FairClock()  # of the clients that have a slot; the other one, of all that have work, assigns slots
        self._max_waiting = max_waiting
        self._clients: set[str] = set()
        """One or two of those that have had a request."""

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
        active = {each.client for each in (*self.running.values(), *self.waiting.values())}
        self._clock.join(sequence.client, sequence.request.weight, active)
        self.waiting[sequence.request.request_id] = sequence
        if len(self._clients) < 2:
            self._clients.add(sequence.client)

    def remove(self, request_id: str) -> None:
        """Drop a request and free its slot. Unknown ids are ignored."""
        self.waiting.pop(request_id, None)
        sequence = self.running.pop(request_id, None)
        if sequence is not None:
            self._free.put(sequence.slot, sequence.content if self._reuse else CachedTokens())
            sequence.slot = NO_SLOT

    def requeue(self, sequence: Sequence) -> None:
        """Take the slot of a running request, which waits again, before the others of its client."""
        self.remove(sequence.request.request_id)
        sequence.cached = sequence.verified = 0
        self.waiting = {sequence.request.request_id: sequence, **self.waiting}

    def expired(self, now: float) -> list[Sequence]:
        """Running and waiting requests that have expired."""
        sequences = (*self.running.values(), *self.waiting.values())
        return [sequence for sequence in sequences if sequence.request.expires <= now]

    def admit(self, now: float) -> list[Assignment]:
        """Assign the free slots to the next requests; prefixes must be copied in the order returned."""
        assignments: list[Assignment] = []
        while self._free and self.waiting:
            sequence = self._next()
            del self.waiting[sequence.request.request_id]
            running = [(other.slot, other.content) for other in self.running.values()] if self._reuse else []
            assigned = self._free.take(CachedTokens(salt=sequence.request.salt, tokens=sequence.tokens), running)
            assignments.append(assigned)
            sequence.slot = assigned.slot
            sequence.cached = sequence.verified = assigned.shared
            if not sequence.started:
                sequence.started, sequence.reused = True, assigned.shared
                sequence.queue_ms = (now - sequence.submitted) * 1e3
            active = {each.client for each in self.running.values()}
            self._pace.join(sequence.client, sequence.request.weight, active)
            self.running[sequence.request.request_id] = sequence
        return assignments

    def overdrawn(self) -> Sequence | None:
        """The running request that must give its slot to the next one; None if none must.

        Its client holds more slots than its share and was served more; the other one holds fewer than its share. Of
        the requests of such clients it is the one that has computed least.
        """
        if self._free or not self.waiting:
            return None
        claimant = self._next().client
        held = Counter(sequence.client for sequence in self.running.values())
        clients = held.keys() | {sequence.client for sequence in self.waiting.values()}
        each = self.slots / sum(self._clock.weight(client) for client in clients)
        if held[claimant] >= max(1, int(each * self._clock.weight(claimant))):
            return None
        over = [
            sequence
            for sequence in self.running.values()
            if held[sequence.client] > max(1.0, each * self._clock.weight(sequence.client))
            and self._clock[sequence.client] > self._clock[claimant]
        ]
        return min(over, key=lambda sequence: len(sequence.tokens), default=None)

    def _next(self) -> Sequence:
        """The oldest waiting request of the client that was served least."""
        return min(self.waiting.values(), key=lambda sequence: self._clock[sequence.client])

    def plan(self) -> list[tuple[Sequence, Segment]]:
        """The segments of the next step, those of one token first, by slot.

        The least served client that has a slot is charged the fixed cost of the step, and every one its tokens.
        """
        clients = sorted({each.client: None for each in self.running.values()}, key=self._pace.__getitem__)
        left, level = self._prefill_budget, math.inf
        planned: list[tuple[Sequence, Segment]] = []
        for client in clients:
            least = client is clients[0]
            own = self._take(client, self._lead() if least else self._until(client, level), left)
            left -= sum(len(segment.ids) for sequence, segment in own if sequence.pending > 1)
            self._charge(client, sum(len(segment.ids) for _, segment in own), fixed=self.costs.fixed if least else 0.0)
            level = min(level, self._pace[client]) if least else level
            planned += own
        return sorted(planned, key=lambda each: (len(each[1].ids) > 1, each[1].slot))

    def _lead(self) -> int:
        """Tokens for the least served client: while it has the engine alone, so few that another one waits little."""
        return self.costs.lead if self.slots > 1 and len(self._clients) > 1 else sys.maxsize

    def _until(self, client: str, level: float) -> int:
        """Tokens, the last one rounded up, that bring *client* to *level*."""
        seconds = (level - self._pace[client]) * self._pace.weight(client)
        return max(0, math.ceil(seconds / self.costs.token - _ROUNDING))

    def _take(self, client: str, most: int, prompts: int) -> list[tuple[Sequence, Segment]]:
        """Segments of *client* of *most* tokens, of its answers in turn, then of its *prompts* in their order."""
        own = [sequence for sequence in self.running.values() if sequence.client == client]
        taken: list[tuple[Sequence, Segment]] = []
        for sequence in sorted(own, key=lambda each: each.pending > 1):
            reads = sequence.pending > 1
            if (room := min(most, prompts if reads else 1)) < 1:
                continue
            segment = sequence.segment(room)
            taken.append((sequence, segment))
            most -= len(segment.ids)
            if reads:
                prompts -= len(segment.ids)
            else:  # the last in turn
                self.running[sequence.request.request_id] = self.running.pop(sequence.request.request_id)
        return taken

    def _charge(self, client: str, tokens: int, *, fixed: float) -> None:
        for clock in (self._clock, self._pace):
            clock.charge(client, fixed + tokens * self.costs.token)
