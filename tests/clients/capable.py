"""A backend that does what a capable model would: it calls the tool that is offered, and follows its schema.

The standard tests of client libraries judge the API, and need a model that does as it is told; small ones do not.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any

from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.core.tools import ToolCallDelta


class Capable:
    """Answers from what the request holds; with *reasoning* before it, *endless*ly, or with an *error* instead."""

    capabilities = Capabilities(model="capable", context_window=100_000, output_schema=True, tools=True, penalties=True)

    def __init__(
        self,
        name: str = "edge",
        location: Location = Location.EDGE,
        *,
        reasoning: str = "",
        endless: bool = False,
        error: Exception | None = None,
    ) -> None:
        self.name, self.location = name, location
        self.reasoning, self.endless, self.error = reasoning, endless, error
        self.requests: list[Request] = []
        self.left = 0
        """Streams that were closed before their end."""

    def state(self) -> BackendState:
        return BackendState(name=self.name, location=self.location, context_window=100_000)

    def count_tokens(self, request: Request) -> int:
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        request = require_clearance(cleared, self.location)
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        try:
            yield from self._chunks(request)
        except GeneratorExit:
            self.left += 1
            raise

    def _chunks(self, request: Request) -> Iterator[Chunk]:
        count = 0
        reason = FinishReason.STOP
        if self.reasoning:
            yield Chunk(reasoning=self.reasoning)
        for chunk in _endless() if self.endless else _answer(request):
            count += 1
            reason = FinishReason.TOOL_CALLS if chunk.tool_calls else reason
            yield chunk
        usage = Usage(prompt_tokens=estimate_tokens(request), completion_tokens=count)
        yield Chunk(tokens=0, finish_reason=reason, usage=usage)

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for chunk in self.stream(cleared):
            yield chunk
            await asyncio.sleep(0.001 if self.endless else 0)

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""


def _endless() -> Iterator[Chunk]:
    while True:
        yield Chunk(text="on ")


def _answer(request: Request) -> Iterator[Chunk]:
    answered = request.messages[-1].role == "tool"
    must = request.tool_choice not in ("auto", "none")
    if request.tools and request.tool_choice != "none" and (must or not answered):
        at = request.tool_choice if isinstance(request.tool_choice, int) else -1 if answered else 0
        tool = request.tools[at]
        yield Chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name=tool.name),))
        for piece in _pieces(_document(tool.parameters, request)):
            yield Chunk(tool_calls=(ToolCallDelta(index=0, arguments=piece),))
        return
    text = "It is sunny, and the answer is yes." if request.output_schema is None else None
    for piece in _pieces(text or _document(request.output_schema or "{}", request)):
        yield Chunk(text=piece)


def _document(schema: str, request: Request) -> str:
    """A document of *schema*; one that says nothing of its names gets those that the prompt quotes."""
    said = next(message.content for message in reversed(request.messages) if message.role == "user")
    read = json.loads(schema)
    if read == {"type": "object"}:
        read["properties"] = {name: {"type": "string"} for name in re.findall(r"[`'\"](\w+)[`'\"]", said)}
    foreign = re.search(r"[^\x00-\x7f]+", said)
    return json.dumps(_sample(read, foreign[0] if foreign else "cats"))


def _pieces(text: str) -> Iterator[str]:
    yield from (text[at : at + 6] for at in range(0, len(text), 6))


def _sample(schema: Any, word: str, root: Any = None) -> Any:
    """A value of *schema*, whose texts are *word*."""
    root = schema if root is None else root
    if "$ref" in schema:
        return _sample(root["$defs"][schema["$ref"].rpartition("/")[2]], word, root)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _sample(schema[several][0], word, root)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if schema.get("type") == "array":
        return [_sample(schema.get("items", {"type": "string"}), word, root)]
    scalars = {"integer": 3, "number": 3.0, "boolean": True, "string": word, "null": None}
    if schema.get("type") in scalars:
        return scalars[schema["type"]]
    return {name: _sample(value, word, root) for name, value in schema.get("properties", {}).items()}
