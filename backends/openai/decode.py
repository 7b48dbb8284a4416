"""The answer of a Chat Completions server as chunks: what its events mean, whatever order and form they come in."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hybrid_llm.backends.http.answer import Answer
from hybrid_llm.backends.http.document import count_of, object_of, objects_of, text_of
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.tools import ToolCallDelta

_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
_DONE: Final = "[DONE]"


class ChatAnswer(Answer):
    """The answer of one call."""

    def __init__(self, *, backend: str, prompt_tokens: int, partial: str = "") -> None:
        super().__init__(backend=backend, prompt_tokens=prompt_tokens, partial=partial)
        self._calls: list[str] = []
        self._usage: Usage | None = None

    def take(self, data: str) -> Iterator[Chunk]:
        """Yield what one event holds."""
        if data.strip() == _DONE:
            self.done = True
            return
        event = self.parsed(data)
        if isinstance(event.get("usage"), dict):
            self._usage = _usage(event["usage"])
        choices = event.get("choices")
        if isinstance(choices, list) and choices:
            yield from self._choice(choices[0])

    def usage(self) -> Usage:
        """What the server has counted; where it has not, the pieces."""
        return self._usage or Usage(completion_tokens=self.received)

    def _choice(self, choice: Any) -> Iterator[Chunk]:
        if not isinstance(choice, dict):
            self.break_off("a choice is no object")
        delta = choice.get("delta") or choice.get("message") or {}
        if isinstance(delta, dict) and self.reason is None:
            yield from self._delta(delta, choice.get("logprobs"))
        if (reason := choice.get("finish_reason")) and self.reason is None:
            self.reason = self._finish(str(reason))

    def _delta(self, delta: Mapping[str, Any], logprobs: Any) -> Iterator[Chunk]:
        content = _text(delta.get("content"))
        reasoning = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        calls = tuple(self._call_deltas(delta.get("tool_calls")))
        if content or reasoning or calls:
            self.received += 1
        text = self.seam.join(content)
        if reasoning or calls:
            text += self.seam.rest()
        if text or reasoning or calls:
            yield Chunk(text=text, reasoning=reasoning, tool_calls=calls, logprobs=_logprobs(logprobs))

    def _call_deltas(self, given: Any) -> Iterator[ToolCallDelta]:
        for each in given if isinstance(given, list) else ():
            function = object_of(each).get("function")
            if not isinstance(function, dict):
                self.break_off("a tool call has no function")
            yield self._call_delta(each, _text(function.get("name")), _text(function.get("arguments")))

    def _call_delta(self, given: Mapping[str, Any], name: str, arguments: str) -> ToolCallDelta:
        """A piece of a call. Some servers send each call whole, some repeat its id, some leave out its index."""
        id_, index = _text(given.get("id")), given.get("index")
        if not isinstance(index, int) or not 0 <= index <= len(self._calls):
            known = id_ in self._calls if id_ else not name and bool(self._calls)
            index = (self._calls.index(id_) if id_ else len(self._calls) - 1) if known else len(self._calls)
        if index < len(self._calls):
            return ToolCallDelta(index=index, arguments=arguments)
        if not name:
            self.break_off("a tool call has no name")
        self._calls.append(id_)
        return ToolCallDelta(index=index, id=id_ or f"call_{index}", name=name, arguments=arguments)

    def _finish(self, reason: str) -> FinishReason:
        if reason == "content_filter":
            self.refuse()
        if reason == "stop" and self._calls:
            return FinishReason.TOOL_CALLS  # as some servers end calls
        found = _REASONS.get(reason)
        if found is None:
            self.break_off("its finish reason is not known")
        return found


def _text(value: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, list):
        return "".join(text_of(part.get("text")) for part in objects_of(value))
    return text_of(value)


def _usage(given: Mapping[str, Any]) -> Usage:
    return Usage(
        prompt_tokens=count_of(given.get("prompt_tokens")),
        completion_tokens=count_of(given.get("completion_tokens")),
        cached_prompt_tokens=count_of(object_of(given.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning_tokens=count_of(object_of(given.get("completion_tokens_details")).get("reasoning_tokens")),
    )


def _logprobs(given: Any) -> tuple[TokenLogprob, ...]:
    return tuple(map(_logprob, objects_of(object_of(given).get("content"))))


def _logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    alternatives = objects_of(entry.get("top_logprobs"))
    top = tuple([Alternative(token=_text(e.get("token")), logprob=_number(e), bytes=_bytes(e)) for e in alternatives])
    return TokenLogprob(token=_text(entry.get("token")), logprob=_number(entry), bytes=_bytes(entry), top=top)


def _number(entry: Mapping[str, Any]) -> float:
    value = entry.get("logprob")
    return float(value) if isinstance(value, int | float) and abs(value) <= sys.float_info.max else float("-inf")


def _bytes(entry: Mapping[str, Any]) -> bytes:
    value = entry.get("bytes")
    if isinstance(value, list) and all(isinstance(each, int) and 0 <= each < 256 for each in value):
        return bytes(value)
    return _text(entry.get("token")).encode()
