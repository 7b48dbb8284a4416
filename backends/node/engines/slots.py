"""The free slots, what each still holds, and which one a request takes so that little is computed twice. No tensors.

A request begins where the longest beginning of its prompt lies already. It goes on in that slot if little else would be
lost there; else that beginning is copied to the slot that has been free for longest. Only what was written under the
same salt is ever looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from hybrid_llm.backends.prefixes import LEAST_SHARED, TAIL, shared_prefix

__all__ = ["FreeSlots", "Held", "Place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a slot holds: *tokens* whose keys and values are in the cache, written under *salt*."""

    salt: str = field(default="", repr=False)
    tokens: Sequence[int] = field(default=(), repr=False)


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
