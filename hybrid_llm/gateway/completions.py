"""OpenAI's Completions, the API before Chat: the prompt becomes what the user says, since the models are for chat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from hybrid_llm.core.generation import Chunk, Generation, Usage
from hybrid_llm.core.jsonable import Json
from hybrid_llm.gateway.asked import Answering, Asked, dumped, event
from hybrid_llm.gateway.chat import CONTENT_FILTER, DONE, SAMPLING, finish_reason, head, usage_of, wants_usage
from hybrid_llm.gateway.extensions import details_field
from hybrid_llm.gateway.tables.completions import COMPLETIONS
from hybrid_llm.router.failures import Failure


class Completions:
    """`POST /v1/completions`."""

    table: ClassVar = COMPLETIONS
    answers_refused: Final = False

    def read(self, body: Json) -> Asked:
        """The request of *body*; raises `Failure`."""
        COMPLETIONS.check(body)
        prompt = body["prompt"]
        stream = bool(body.get("stream"))
        return Asked(
            model=body["model"],
            prompt=[{"role": "user", "content": prompt if isinstance(prompt, str) else prompt[0]}],
            options={name: body.get(name) for name in (*SAMPLING, "max_tokens")},
            stream=stream,
            with_usage=stream and wants_usage(body),
            body=body,
        )

    def whole(self, answering: Answering, generation: Generation) -> Json:
        """A `text_completion`."""
        choice = _choice(generation.text, finish_reason(generation.finish_reason))
        details = details_field(answering, generation)
        return _head(answering) | {"choices": [choice], "usage": usage_of(generation.usage)} | details

    def refused(self, answering: Answering, failure: Failure) -> Json:  # noqa: ARG002  # the API has no place for it
        """A `text_completion` with the reason `content_filter`."""
        return _head(answering) | {
            "choices": [_choice("", CONTENT_FILTER)],
            "usage": usage_of(Usage()),
        }

    def writer(self, answering: Answering) -> CompletionWriter:
        """Writes `text_completion` events."""
        return CompletionWriter(answering)

    def failure(self, failure: Failure) -> Json:
        """An `error`."""
        return failure.as_openai()


class CompletionWriter:
    """Writes the events of one answer."""

    def __init__(self, answering: Answering) -> None:
        self._head = _head(answering)
        self._answering = answering
        self._with_usage = answering.asked.with_usage

    def begin(self) -> Iterator[bytes]:
        """Nothing stands before the text."""
        return iter(())

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """A piece of the text."""
        if chunk.text:
            yield event(dumped(self._head | {"choices": [_choice(chunk.text, None)]}))

    def end(self, generation: Generation) -> Iterator[bytes]:
        """The reason of the end; then the usage, if the client wants it."""
        details = details_field(self._answering, generation)
        yield event(dumped(self._head | {"choices": [_choice("", finish_reason(generation.finish_reason))]} | details))
        if self._with_usage:
            yield event(dumped(self._head | {"choices": [], "usage": usage_of(generation.usage)}))
        yield DONE

    def fail(self, failure: Failure) -> Iterator[bytes]:
        """An error in place of the rest."""
        yield event(dumped(failure.as_openai()))

    def refuse(self, failure: Failure) -> Iterator[bytes]:  # noqa: ARG002  # the API has no place for it
        """The reason `content_filter`."""
        yield event(dumped(self._head | {"choices": [_choice("", CONTENT_FILTER)]}))
        yield DONE


def _head(answering: Answering) -> Json:
    return head(answering, "text_completion", "cmpl")


def _choice(text: str, reason: str | None) -> Json:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
