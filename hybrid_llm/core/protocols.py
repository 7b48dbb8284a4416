"""The protocols that backends, detectors and guardrails implement."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, Self, runtime_checkable

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.health import Health
from hybrid_llm.core.request import Location, Request, RequestMetadata
from hybrid_llm.core.signals import BackendState, EndpointState

DETECTOR_NAMES: Final = (
    "credential",
    "email",
    "cn_resident_id",
    "us_ssn",
    "iban",
    "payment_card",
    "crypto_wallet",
    "medical_record",
    "passport",
    "driver_license",
    "date_of_birth",
    "national_id",
    "ip_address",
    "mac_address",
    "phone",
)
"""The built-in detectors, most specific first: of two findings of the same length, the earlier detector's counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Where a detector found a value: *start* and *end* are character offsets, *kind* what it is.

    A kind is a name, such as `email` or `person_name`, never a piece of the text: it shows in pseudonyms. In those of a
    value that holds its own kind, such as `LOCATION_7BUO3`, the name of the detector shows instead.
    """

    kind: str
    start: int
    end: int


class Detector(Protocol):
    """Finds one kind of sensitive value. If it raises, the request stays on the device."""

    @property
    def name(self) -> str:
        """The name that a policy's `detect` uses."""

    def find(self, text: str) -> Iterator[Finding]:
        """Yield the findings in *text*, in order."""


class Direction(StrEnum):
    """Which way a text goes."""

    INPUT = "input"
    """From the app to a model: a turn of the user, the result of a tool."""
    OUTPUT = "output"
    """From a model to the app: a piece of its text, reasoning or arguments of a tool call."""


_CATEGORY: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a guardrail makes of a text: nothing, or a refusal with its *category* and a *reason*.

    Both are short codes, such as `weapons` and `instructions`, never a piece of the text: errors and logs show them.

    Raises:
        ValueError: one is no code of lower-case letters, digits and underscores.
    """

    category: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if not all(_CATEGORY.fullmatch(code) for code in (self.category, self.reason) if code):
            raise ValueError("a category or reason is a code of lower-case letters, digits and underscores")
        if self.reason and not self.category:
            raise ValueError("a refusal has a category")

    @classmethod
    def refuse(cls, category: str, reason: str = "") -> Self:
        """The text must not go on."""
        return cls(category=category, reason=reason)

    @property
    def refuses(self) -> bool:
        """Whether the text must not go on."""
        return bool(self.category)


ALLOW: Final = Verdict()
"""The text may go on."""


class Guardrail(Protocol):
    """Keeps back what a request must not ask, or an answer must not say. If it raises, the text is refused."""

    @property
    def name(self) -> str:
        """Its name in errors and logs."""

    @property
    def window(self) -> int:
        """The length in characters of the longest passage that it refuses: so much of an answer is held back."""

    def check(self, text: str, direction: Direction, metadata: RequestMetadata) -> Verdict:
        """Judge *text*: a whole message of a request, or the end of an answer so far, at least its last window.

        May block: it runs in a worker thread, and until the deadline of the request at most. Equal texts get equal
        verdicts.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend supports, known before any call."""

    model: str
    context_window: int
    """Maximum tokens of prompt and answer together; 0 while it is not known."""
    output_schema: bool = False
    tools: bool = False
    logprobs: bool = False
    """Whether it gives log-probabilities. One that does not is left out where a request asks for them."""
    penalties: bool = False
    """Whether it follows presence and frequency penalties. One that does not is left out where a request has any."""
    priorities: bool = False
    """Whether requests of a higher priority get a larger share of it. One that does not answers them like any other."""
    tasks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Of a specialist, the tasks that it serves, each with the labels, or kinds of entities, that it knows, in lower
    case. It gets no other request. Empty for a backend that serves any."""
    draws: bool = False
    """Whether its model recommends a draw: an answer for which no temperature is named differs each time."""
    notice: str = ""
    """What a reader of its answers must know, such as that the model is a demonstration; no text of a request."""
    revision: str = ""
    """What distinguishes this version of the model from others of its name, such as a digest of its files: a cached
    answer is replayed only under the same one."""
    parent: str = ""
    """The model that this one is an adapter of, where it is one and that is known."""


@runtime_checkable
class Backend(Protocol):
    """Runs a model. `stream` and `astream` do the same; closing the generator cancels the work."""

    @property
    def name(self) -> str:
        """The name that policies and configurations use, such as `edge`."""

    @property
    def location(self) -> Location:
        """Where it runs, as privacy tags see it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it supports; no I/O."""

    def state(self) -> BackendState:
        """Its state at this instant; no I/O, a few microseconds, from any thread."""

    def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt: exact where the tokenizer is here, else `estimate_tokens`; no network."""

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer chunk by chunk. The last chunk, and only it, has a finish reason.

        Raises:
            PrivacyViolation: the clearance does not cover this location; nothing was sent.
            BackendError: a subclass of it, within the deadline of the request.
        """

    def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Do as `stream` does, without blocking the event loop."""

    def close(self) -> None:
        """Release everything; running requests end with `BackendUnavailable`. Idempotent."""

    async def aclose(self) -> None:
        """Do as `close` does, and release what belongs to the running event loop."""


@runtime_checkable
class SessionAware(Protocol):
    """A backend on this device that holds state of a session between its requests."""

    def forget(self, session_id: str, tenant: str | None) -> None:
        """Drop what the session left in memory; an unknown session is ignored."""


@runtime_checkable
class Abortable(Protocol):
    """A backend that can end a request whose stream another thread waits for; else it ends with its next chunk."""

    def abort(self, request_id: str) -> None:
        """End the calls of this request, if there are any; from any thread, without blocking."""


@runtime_checkable
class HealthAware(Protocol):
    """A backend whose endpoints report their own calls, so that the router reports nothing to it."""

    @property
    def endpoint_health(self) -> Health:
        """The health of its endpoints together."""


@runtime_checkable
class Remote(Protocol):
    """A backend of one server, as telemetry names it."""

    @property
    def address(self) -> str:
        """`HOST:PORT`, or the path of a Unix socket."""

    @property
    def provider(self) -> str:
        """Who serves the model, in the words of OpenTelemetry's `gen_ai.provider.name`, such as `openai`."""


@runtime_checkable
class Expiring(Protocol):
    """A backend that holds what expires, such as a certificate."""

    def expiries(self) -> Mapping[str, float]:
        """What expires -> when, seconds since 1970; files are read, from any thread."""
        ...


@runtime_checkable
class MultiEndpoint(Protocol):
    """A backend of several endpoints, each with a state of its own."""

    def members(self) -> tuple[EndpointState, ...]:
        """The state of each endpoint at this instant; no I/O, from any thread."""
