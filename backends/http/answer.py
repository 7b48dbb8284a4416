"""What the answers of all APIs have in common: pieces that are counted, an end that is stated, errors in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

from hybrid_llm.backends.http.continuation import Seam
from hybrid_llm.backends.http.failures import in_stream, interrupted
from hybrid_llm.core.errors import RequestRejected
from hybrid_llm.core.generation import Chunk, FinishReason, Timings, Usage
from hybrid_llm.core.jsonable import Json


class Answer:
    """The answer of one call, event by event. Its last chunk is held back until the usage has come.

    Args:
        backend: The name for errors.
        prompt_tokens: The estimate that counts where the server reports no usage.
        partial: The answer so far that the server was asked to go on with, and may repeat.
    """

    def __init__(self, *, backend: str, prompt_tokens: int, partial: str = "") -> None:
        self.backend = backend
        self._prompt_tokens = prompt_tokens
        self.seam = Seam(partial)
        self.reason: FinishReason | None = None
        """Why it ended, once the server has said so."""
        self.received = 0
        """Pieces that arrived: tokens, for most servers."""
        self.done = False
        """Nothing more is read."""

    def take(self, data: str) -> Iterator[Chunk]:
        """Yield what one event holds.

        Raises:
            BackendError: the server reports an error, or sends what is no answer.
        """
        raise NotImplementedError

    def usage(self) -> Usage:
        """What the server has counted; where it has not, the pieces."""
        raise NotImplementedError

    def end(self, timings: Timings) -> Iterator[Chunk]:
        """Yield what was held back, then the last chunk.

        Raises:
            BackendError: the server ended the answer without a reason.
        """
        if self.reason is None:
            self.break_off("it ended without a reason")
        if text := self.seam.rest():
            yield Chunk(text=text, tokens=0)
        usage = self.usage()
        usage = usage if usage.prompt_tokens else replace(usage, prompt_tokens=self._prompt_tokens)
        yield Chunk(tokens=0, finish_reason=self.reason, usage=usage, timings=timings)

    def parsed(self, data: str) -> Json:
        """The JSON object that an event holds, which is no error."""
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self.break_off("an event is no JSON object")
        if event.get("error"):
            raise in_stream(event, self.received, backend=self.backend)
        return event

    def break_off(self, why: str) -> NoReturn:
        """Raise the error of what is no answer, or no longer."""
        raise interrupted(self.received, why, backend=self.backend)

    def refuse(self) -> NoReturn:
        """Raise the error of a model, or a filter, that refused to answer."""
        text = f"a content filter of {self.backend} ended the answer"
        raise RequestRejected(text, backend=self.backend, reason="content_filter")
