"""The answer of a Messages server as chunks: what its events mean, whatever order they come in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hybrid_llm.backends.http.answer import Answer
from hybrid_llm.backends.http.document import is_count, object_of, text_of
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.tools import ToolCallDelta

REASONS: Final[Mapping[str, FinishReason | None]] = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "pause_turn": None,
    "refusal": None,
}
"""Why an answer ended; None where it is none: a refusal, or a pause of the server's own tools, which we never use."""
_COUNTS: Final = (
    *("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
    *("output_tokens", "thinking_tokens"),
)


class MessageAnswer(Answer):
    """The answer of one call."""

    def __init__(self, *, backend: str, prompt_tokens: int, partial: str = "") -> None:
        super().__init__(backend=backend, prompt_tokens=prompt_tokens, partial=partial)
        self._calls: dict[int, int] = {}
        self._begun = 0
        self._bare: set[int] = set()
        """The calls by their blocks, how many there were, and the blocks that have no arguments yet."""
        self._counts: dict[str, int] = {}

    def take(self, data: str) -> Iterator[Chunk]:
        """Yield what one event holds."""
        event = self.parsed(data)
        match event.get("type"):
            case "message_start":
                self._count(object_of(event.get("message")).get("usage"))
            case "content_block_start":
                yield from self._start(_index(event), object_of(event.get("content_block")))
            case "content_block_delta":
                yield from self._delta(_index(event), object_of(event.get("delta")))
            case "content_block_stop":
                yield from self._stop(_index(event))
            case "message_delta":
                self._count(event.get("usage"))
                self._end(object_of(event.get("delta")).get("stop_reason"))
            case "message_stop":
                self.done = True
            case "error":
                self.break_off("the server reports an error of no kind")

    def _start(self, index: int, block: Json) -> Iterator[Chunk]:
        """The begin of a block; some servers send a block whole."""
        match block.get("type"):
            case "text":
                yield from self._text(text_of(block.get("text")))
            case "thinking":
                yield from self._reasoning(text_of(block.get("thinking")))
            case "tool_use":
                number, self._begun = self._begun, self._begun + 1
                self._calls[index] = number
                self._bare.add(index)
                given, name = block.get("input"), text_of(block.get("name"))
                if not name:
                    self.break_off("a tool call has no name")
                written = json.dumps(given) if given else ""
                yield from self._call(index, written, id_=text_of(block.get("id")) or f"call_{number}", name=name)

    def _delta(self, index: int, delta: Json) -> Iterator[Chunk]:
        match delta.get("type"):
            case "text_delta":
                yield from self._text(text_of(delta.get("text")))
            case "thinking_delta":
                yield from self._reasoning(text_of(delta.get("thinking")))
            case "input_json_delta" if index in self._calls:
                if written := text_of(delta.get("partial_json")):
                    yield from self._call(index, written)
            case "input_json_delta":
                self.break_off("a tool call has no begin")

    def _stop(self, index: int) -> Iterator[Chunk]:
        """The end of a block: a call without arguments has an empty object."""
        if index in self._bare:
            yield from self._call(index, "{}")

    def _text(self, text: str) -> Iterator[Chunk]:
        if text:
            self.received += 1
            if kept := self.seam.join(text):
                yield Chunk(text=kept)

    def _reasoning(self, text: str) -> Iterator[Chunk]:
        if text:
            self.received += 1
            yield Chunk(reasoning=text)

    def _call(self, index: int, arguments: str, *, id_: str = "", name: str = "") -> Iterator[Chunk]:
        self.received += 1
        if arguments:
            self._bare.discard(index)
        delta = ToolCallDelta(index=self._calls[index], id=id_, name=name, arguments=arguments)
        yield Chunk(text=self.seam.rest(), tool_calls=(delta,))

    def _end(self, reason: Any) -> None:
        if not isinstance(reason, str) or self.reason is not None:
            return
        if reason == "refusal":
            self.refuse()
        self.reason = REASONS.get(reason)
        if self.reason is None:
            why = "the server paused its turn" if reason in REASONS else "its stop reason is not known"
            self.break_off(why)

    def _count(self, usage: Any) -> None:
        """Take the counts of *usage*: each is a total so far, and one that is left out stays."""
        if isinstance(usage, dict):
            counts = usage | object_of(usage.get("output_tokens_details"))
            self._counts |= {name: counts[name] for name in _COUNTS if is_count(counts.get(name))}

    def usage(self) -> Usage:
        """What the server has counted; where it has not, the pieces."""
        counts = self._counts
        cached = counts.get("cache_read_input_tokens", 0)
        read = counts.get("input_tokens", 0) + counts.get("cache_creation_input_tokens", 0) + cached
        return Usage(
            prompt_tokens=read,
            completion_tokens=counts.get("output_tokens", self.received),
            cached_prompt_tokens=cached,
            reasoning_tokens=counts.get("thinking_tokens", 0),
        )


def _index(event: Json) -> int:
    """The number of a block; -1 where it has none."""
    found = event.get("index")
    return found if isinstance(found, int) else -1
