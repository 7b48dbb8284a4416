"""What an API over HTTP defines: the bytes of a call, the meaning of its answer, and how a server describes itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hybrid_llm.backends.http.answer import Answer
from hybrid_llm.backends.http.document import object_of
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.jsonable import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a server returns for a URL; *document* is None where that is no JSON."""

    status: int
    headers: Mapping[str, str]
    document: Any = None

    @property
    def fields(self) -> Json:
        """The document of a successful reply, where it is an object; else nothing."""
        return object_of(self.document) if self.status == 200 else {}


Get = Callable[[str], Reply]
"""Asks the server for a URL, without a body. A path from `/` is below the host, another below `base_url`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a server has reported of itself; each default is "not reported"."""

    server: str = ""
    """What it is, such as `vllm`."""
    context_window: int = 0
    """Tokens of prompt and answer together."""
    tools: bool | None = None
    output_schema: bool | None = None
    lists_model: bool | None = None
    """Whether the model of the configuration is among those that it lists."""
    refuses_others: bool = False
    """Whether it refuses every model that it does not list."""

    @property
    def lacks_model(self) -> bool:
        """Whether a call would be refused for its model."""
        return self.lists_model is False and self.refuses_others


UNKNOWN = Known()
"""Before a server has been asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: the bytes that leave, and what reads what comes back."""

    data: bytes
    answer: Answer
    traceparent: str = ""
    """Where the call stands in a trace, if there is one."""


class Api(Protocol):
    """One API, for one server."""

    route: str
    """The path of a call, below `base_url`."""
    listing: str
    """The path at which the server lists its models, or the one of the configuration."""

    headers: Mapping[str, str]
    """Headers of every request, besides the key."""

    def call(self, cleared: Cleared, known: Known, /) -> Call:
        """The call for a cleared request, in which every text is one of that request.

        Raises:
            PrivacyViolation: the clearance does not cover where the server is, or a text is none of it.
            RequestRejected: the server cannot be asked for this.
        """

    def describe(self, listed: Reply, get: Get, /) -> Known:
        """What the server is and can do, by its reply to *listing* and further questions; raises nothing."""
