"""What is told to the outside about a request once it is over: one frozen event, and never what was said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hybrid_llm.router.errors import PrivacyViolation
from hybrid_llm.router.signals import Signals
from hybrid_llm.router.types import Decision, Facts, FinishReason, Seam, Timings, Usage

if TYPE_CHECKING:
    from hybrid_llm.router.vitals import Vitals

__all__ = ["Attached", "AttemptRecord", "Hook", "RequestEvent", "attach", "detach", "emit"]

_log = logging.getLogger("hybrid_llm")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One call of one backend. *error* is the name of the error's class, empty when it worked."""

    backend: str
    error: str = ""
    elapsed_ms: float = 0.0
    rival: bool = False
    """It was called beside one that was silent: a hedge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """One request, over. It holds counts, names and times; no prompt, no answer, no key."""

    facts: Facts
    """The request without its texts: the only form of it that leaves the client."""
    signals: Signals
    """What the policy saw."""
    decision: Decision
    backend: str = ""
    """Who answered; empty when nobody did."""
    attempts: tuple[AttemptRecord, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    error: str = ""
    """The name of the error's class; empty when the answer is complete. `cancelled` when the caller closed it."""
    seams: tuple[Seam, ...] = ()
    """Where the answer broke off, and who went on."""
    cached: bool = False
    """The answer was kept from an identical request; nobody was called."""

    def __post_init__(self) -> None:
        if not isinstance(self.facts, Facts):
            raise PrivacyViolation(
                "telemetry takes the facts of a request only, never the request", location="telemetry"
            )

    @property
    def request_id(self) -> str:
        """The id of the request."""
        return self.facts.request_id


class Hook(Protocol):
    """Called once per request, in the thread or task of the request: be quick, or hand over to a queue."""

    def __call__(self, event: RequestEvent) -> None:
        """Take note of *event*."""
        ...


@runtime_checkable
class Attached(Protocol):
    """A hook that is told whose requests it sees, and can look at how that client stands."""

    def attach(self, look: Callable[[], Vitals]) -> None:
        """A client begins; *look* tells how it stands at any time, from any thread."""
        ...

    def detach(self, look: Callable[[], Vitals]) -> None:
        """That client is closed."""
        ...


def attach(hooks: Iterable[Hook], look: Callable[[], Vitals]) -> None:
    """A client begins: tell the hooks that want to know."""
    for hook in hooks:
        if isinstance(hook, Attached):
            hook.attach(look)


def detach(hooks: Iterable[Hook], look: Callable[[], Vitals]) -> None:
    """The client is closed: tell the same hooks."""
    for hook in hooks:
        if isinstance(hook, Attached):
            hook.detach(look)


def emit(hooks: Iterable[Hook], event: RequestEvent) -> None:
    """Call every hook. A hook that raises is logged by its error's class and harms nobody."""
    for hook in hooks:
        try:
            hook(event)
        except Exception as error:  # noqa: BLE001  # a broken metric must not break an answer
            _log.warning("hook %r failed with %s", type(hook).__name__, type(error).__name__)
