"""Answers of the Responses API that a later request may follow: in memory, bounded, each for its own tenant."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from hybrid_llm.core.generation import Generation
from hybrid_llm.core.jsonable import Json
from hybrid_llm.gateway.asked import Answering, Asked, dumped
from hybrid_llm.router.failures import Failure


@dataclass(frozen=True, slots=True)
class _Stored:
    turns: list[Json] = field(repr=False)
    privacy: frozenset[str]
    document: Json = field(repr=False)
    size: int


class StoredResponses:
    """Conversations by the id of their last answer; the one that was used longest ago is dropped first.

    Each has the privacy tags that its requests declared, so that a later turn goes no further than the ones before.
    What detectors find is found again, since every request holds the whole conversation.
    """

    def __init__(self, capacity: int, characters: int) -> None:
        self._capacity, self._characters = capacity, characters
        self._responses: OrderedDict[tuple[str | None, str], _Stored] = OrderedDict()
        self._size = 0

    def follow(self, asked: Asked, tenant: str | None) -> Asked:
        """*asked* with the turns before it.

        Raises:
            Failure: the answer that it follows is not stored, or is another tenant's.
        """
        if not asked.follows:
            return asked
        stored = self._find(asked.follows, tenant)
        return replace(asked, prompt=[*stored.turns, *asked.prompt], privacy=stored.privacy)

    def add(self, answering: Answering, generation: Generation, document: Json) -> None:
        """Store an answer whose request allows it."""
        asked = answering.asked
        if not asked.store or not self._capacity:
            return
        turns = [*asked.prompt, _turn(generation)]
        size = len(dumped(document)) + sum(len(str(turn)) for turn in turns)
        key = (answering.tenant, str(document["id"]))
        self._responses[key] = _Stored(turns, answering.privacy, document, size)
        self._size += size
        while len(self._responses) > self._capacity or self._size > self._characters:
            self._size -= self._responses.popitem(last=False)[1].size

    def document(self, response_id: str, tenant: str | None) -> Json:
        """The answer as it was sent. Raises `Failure` if it is not stored."""
        return self._find(response_id, tenant).document

    def delete(self, response_id: str, tenant: str | None) -> None:
        """Drop an answer. Raises `Failure` if it is not stored."""
        self._find(response_id, tenant)
        self._size -= self._responses.pop((tenant, response_id)).size

    def _find(self, response_id: str, tenant: str | None) -> _Stored:
        stored = self._responses.get((tenant, response_id))
        if stored is None:
            text = "the response is not stored, or was dropped at the limit; send the whole conversation"
            raise Failure(404, "response_not_found", text, "previous_response_id")
        self._responses.move_to_end((tenant, response_id))
        return stored


def _turn(generation: Generation) -> Json:
    """The answer as a turn of the conversation, as `generate` takes it."""
    turn: Json = {"role": "assistant", "content": generation.text}
    calls = [call.as_openai() for call in generation.tool_calls]
    return turn | ({"tool_calls": calls} if calls else {})
