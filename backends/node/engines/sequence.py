"""One request on its way through the engine, and the piece of it that a step computes. State only, no decisions."""

from __future__ import annotations

from dataclasses import dataclass, field

from hybrid_llm.backends.node.engine import EngineRequest
from hybrid_llm.backends.node.engines.sampler import Sampler
from hybrid_llm.backends.node.engines.slots import Held, Place

__all__ = ["Segment", "Sequence"]

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
