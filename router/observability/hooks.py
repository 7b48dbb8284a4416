"""How a client stands at one instant, for metrics and people who look from outside; no request reads or pays for it.

What is told to the outside about a request once it is over: one frozen event, and never what was said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.generation import Continuation, FinishReason, Timings, Usage
from hybrid_llm.core.protocols import Backend, MultiEndpoint
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.policies.language.schema import Objectives


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    """One instant of one client; names, numbers and states only."""

    signals: Signals
    """What a policy would see for an empty request, and the nodes of each backend one by one."""
    policy: str = ""
    digest: str = ""
    objectives: Objectives = field(default_factory=Objectives)
    """What the policy in force aims at."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Backend -> the name of its model; empty where a node has not told it yet."""
    retries_left: Mapping[str, float] = field(default_factory=dict)
    """Backend -> further calls and rivals that its retry budget would pay for now."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Backend with a price -> what this client has spent with it so far, in *currency*."""
    currency: str = ""


def with_members(signals: Signals, backends: Iterable[Backend]) -> Signals:
    """*signals* with the nodes of those backends that have several."""
    states = dict(signals.backends)
    for backend in backends:
        if isinstance(backend, MultiEndpoint):
            states[backend.name] = replace(states[backend.name], members=backend.members())
    return replace(signals, backends=states)


_log = logging.getLogger("hybrid_llm")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One call of one backend. *error* is the name of the error's class, empty when it worked."""

    backend: str
    error: str = ""
    elapsed_ms: float = 0.0
    hedge: bool = False
    """It was called beside one that was silent: a hedge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """One request, over. It holds counts, names and times; no prompt, no answer, no key."""

    metadata: RequestMetadata
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
    continuations: tuple[Continuation, ...] = ()
    """Where the answer broke off, and who went on."""
    cached: bool = False
    """The answer was kept from an identical request; nobody was called."""

    def __post_init__(self) -> None:
        if not isinstance(self.metadata, RequestMetadata):
            raise PrivacyViolation(
                "telemetry takes the metadata of a request only, never the request", location="telemetry"
            )

    @property
    def request_id(self) -> str:
        """The id of the request."""
        return self.metadata.request_id


class Hook(Protocol):
    """Called once per request, in the thread or task of the request: be quick, or hand over to a queue."""

    def __call__(self, event: RequestEvent) -> None:
        """Take note of *event*."""
        ...


@runtime_checkable
class ClientHook(Protocol):
    """A hook that is told whose requests it sees, and can look at how that client stands."""

    def attach(self, look: Callable[[], ClientStatus]) -> None:
        """A client begins; *look* tells how it stands at any time, from any thread."""
        ...

    def detach(self, look: Callable[[], ClientStatus]) -> None:
        """That client is closed."""
        ...


def attach(hooks: Iterable[Hook], look: Callable[[], ClientStatus]) -> None:
    """A client begins: tell the hooks that want to know."""
    for hook in hooks:
        if isinstance(hook, ClientHook):
            hook.attach(look)


def detach(hooks: Iterable[Hook], look: Callable[[], ClientStatus]) -> None:
    """The client is closed: tell the same hooks."""
    for hook in hooks:
        if isinstance(hook, ClientHook):
            hook.detach(look)


def emit(hooks: Iterable[Hook], event: RequestEvent) -> None:
    """Call every hook. A hook that raises is logged by its error's class and harms nobody."""
    for hook in hooks:
        try:
            hook(event)
        except Exception as error:  # noqa: BLE001  # a broken metric must not break an answer
            _log.warning("hook %r failed with %s", type(hook).__name__, type(error).__name__)
