"""A request of any API as our own call: the prompt, the options, and how the answer is to be written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.core.jsonable import Json
from hybrid_llm.gateway.parameters import Table
from hybrid_llm.router.failures import Failure


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client asks for."""

    model: str
    """As the client wrote it: `auto`, a backend, a model, or a name that no backend has."""
    prompt: list[Json] = field(repr=False)
    """The conversation, as `generate` takes it."""
    instructions: list[Json] = field(default_factory=list, repr=False)
    """What stands before the conversation, and is no turn of it."""
    options: Json = field(repr=False)
    """Options of `generate`; one that is None is not given."""
    stream: bool = False
    with_usage: bool = False
    """Whether a stream ends with its usage, where an API leaves that to the client."""
    privacy: frozenset[str] = frozenset()
    """Privacy tags of the turns before."""
    follows: str = ""
    """The id of the answer that came before, which the client leaves to us to keep."""
    store: bool = False
    """Whether a later request may follow this answer."""
    warnings: tuple[str, ...] = ()
    """What the request has that is not followed, and is no mere hint; none holds a text of it."""
    names: Mapping[str, ToolName] = field(default_factory=dict, repr=False)
    """How the client knows the tools that it knows otherwise than the model."""
    body: Json = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ToolName:
    """A tool as its client knows it."""

    name: str
    namespace: str | None = None
    custom: bool = False
    """Whether its input is a text, and no object."""


class Writer(Protocol):
    """Writes one streamed answer as server-sent events."""

    def begin(self) -> Iterable[bytes]:
        """The events before the first piece of the answer."""

    def chunk(self, chunk: Chunk) -> Iterable[bytes]:
        """The events of one piece."""

    def end(self, generation: Generation) -> Iterable[bytes]:
        """The events of a whole answer."""

    def fail(self, failure: Failure) -> Iterable[bytes]:
        """The events of an answer that broke off."""

    def refuse(self, failure: Failure) -> Iterable[bytes]:
        """The events that end an answer of which a guardrail refuses the rest: it ends, but not as if it were whole."""


@dataclass(frozen=True, kw_only=True)
class Answering:
    """What is known of an answer beside its content."""

    asked: Asked
    request_id: str
    model: str
    """The model that answers; until a backend has begun to, the one that was asked for."""
    created: int
    """Seconds since 1970."""
    tenant: str | None = None
    privacy: frozenset[str] = frozenset()
    """The privacy tags that its request declared."""
    details: bool = False
    """Whether the client wants to know how the answer was made."""


class Dialect(Protocol):
    """One API: reads its requests, and writes its answers and errors."""

    @property
    def answers_refused(self) -> bool:
        """Whether a request that a guardrail refuses gets an answer that says so, in place of an error."""

    table: ClassVar[Table]
    """Its fields."""

    def read(self, body: Json) -> Asked:
        """The request of *body*.

        Raises:
            Failure: the API has no such request, or no backend can do what it asks for.
        """

    def whole(self, answering: Answering, generation: Generation) -> Json:
        """The document of an answer that is not streamed."""

    def writer(self, answering: Answering) -> Writer:
        """Writes the events of an answer that is streamed."""

    def refused(self, answering: Answering, failure: Failure) -> Json:
        """The document of an answer that a guardrail refuses: nothing of it is in it."""

    def failure(self, failure: Failure) -> Json:
        """The document of an error."""


_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def dumped(value: object) -> str:
    """*value* as JSON, in ASCII."""
    return _encode(value)


def event(document: str, name: str = "") -> bytes:
    """One server-sent event (WHATWG HTML, 9.2) with a JSON text as its data."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {document}\n\n".encode()
