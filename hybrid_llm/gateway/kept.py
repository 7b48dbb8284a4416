"""Answers of the Responses API that a later request may follow: in memory, bounded, each for its own tenant."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from hybrid_llm.core.generation import Generation
from hybrid_llm.gateway.asked import Answering, Asked, Json, dumped
from hybrid_llm.router.failures import Failure


@dataclass(frozen=True, slots=True)
class _Kept:
    turns: list[Json] = field(repr=False)
    privacy: frozenset[str]
    document: Json = field(repr=False)
    size: int


class KeptResponses:
    """Conversations by the id of their last answer; the one that was used longest ago is dropped first.

    Each keeps the privacy tags that its requests declared, so that a later turn goes no further than the ones before.
    What detectors find is found again, since every request holds the whole conversation.
    """

    def __init__(self, capacity: int, characters: int) -> None:
        self._capacity, self._characters = capacity, characters
        self._kept: OrderedDict[tuple[str | None, str], _Kept] = OrderedDict()
        self._size = 0

    def follow(self, asked: Asked, tenant: str | None) -> Asked:
        """*asked* with the turns before it.

        Raises:
            Failure: the answer that it follows is not kept, or is another tenant's.
        """
        if not asked.follows:
            return asked
        kept = self._find(asked.follows, tenant)
        return replace(asked, prompt=[*kept.turns, *asked.prompt], privacy=kept.privacy)

    def keep(self, answering: Answering, generation: Generation, document: Json) -> None:
        """Keep an answer whose request allows it."""
        asked = answering.asked
        if not asked.keep or not self._capacity:
            return
        turns = [*asked.prompt, _turn(generation)]
        size = len(dumped(document)) + sum(len(str(turn)) for turn in turns)
        key = (answering.tenant, str(document["id"]))
        self._kept[key] = _Kept(turns, answering.privacy, document, size)
        self._size += size
        while len(self._kept) > self._capacity or self._size > self._characters:
            self._size -= self._kept.popitem(last=False)[1].size

    def document(self, response_id: str, tenant: str | None) -> Json:
        """The answer as it was sent. Raises `Failure` if it is not kept."""
        return self._find(response_id, tenant).document

    def delete(self, response_id: str, tenant: str | None) -> None:
        """Drop an answer. Raises `Failure` if it is not kept."""
        self._find(response_id, tenant)
        self._size -= self._kept.pop((tenant, response_id)).size

    def _find(self, response_id: str, tenant: str | None) -> _Kept:
        kept = self._kept.get((tenant, response_id))
        if kept is None:
            text = "the response is not kept: it was dropped at the limit, or not stored; send the whole conversation"
            raise Failure(404, "response_not_found", text, "previous_response_id")
        self._kept.move_to_end((tenant, response_id))
        return kept


def _turn(generation: Generation) -> Json:
    """The answer as a turn of the conversation, as `generate` takes it."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in generation.tool_calls
    ]
    turn: Json = {"role": "assistant", "content": generation.text}
    return turn | ({"tool_calls": calls} if calls else {})
