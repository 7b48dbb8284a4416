"""Every error of the library: facts as attributes, never prompt or answer text.

HybridLLMError
  ConfigError                   a file, option or certificate of the app's set-up is wrong
    PolicyError                 ... in a policy file; path, line, column, hint; `.errors` has all of them
    UnsupportedRuntime          it was made before a fork, or the event loop is not asyncio's
  InvalidRequest                the call itself is wrong: an option out of range, an unknown privacy tag
  ContentRefused                a guardrail refuses the request or the answer; `.direction`, `.category`, `.guardrail`
  AuditUnavailable              the audit log cannot be written, and a request must not be answered without
  ToolFailed                    a tool of `run_tools` raised, or did not return in time; `.tool`, `.reason`
  RoutingError                  carries the decision
    NoEligibleBackend           every backend is excluded: by tag, by rule, or not ready
    AllBackendsFailed           every allowed backend was tried; `.failures` has how each ended
  BackendError                  one backend, one failure
    BackendUnavailable          not reachable: not loaded, connection refused, shutting down; `.reason` is a code
    BackendOverloaded           reachable but full; `.retry_after` in seconds where it is known
    DeadlineExceeded            the request's deadline passed
    StreamInterrupted           ended after the first token and before the last; `.received_tokens`
    RequestRejected             this backend cannot take this request; `.reason` is a code
    AuthenticationFailed        it does not accept our certificate
    PermissionDenied            it accepts the client, which lacks this right
    QuotaExceeded               the quota or budget of the tenant is used up
    ProtocolMismatch            it speaks another version
    OutputInvalid               the whole answer does not follow the output schema, or was cut off before its end
  SecurityError                 never retried, never falls back
    UntrustedPeer               the certificate or the name of the peer is wrong
    UntrustedModel              a model is not what a trusted signer signed; `.model`, `.reason` is a code
    DecryptionFailed            bytes were changed on the way
    PrivacyViolation            a request was stopped that must not leave the device
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybrid_llm.core.decision import Decision

__all__ = [
    "AllBackendsFailed",
    "AuditUnavailable",
    "AuthenticationFailed",
    "BackendError",
    "BackendOverloaded",
    "BackendUnavailable",
    "ConfigError",
    "ContentRefused",
    "DeadlineExceeded",
    "DecryptionFailed",
    "HybridLLMError",
    "InvalidRequest",
    "NoEligibleBackend",
    "OutputInvalid",
    "PermissionDenied",
    "PolicyError",
    "PrivacyViolation",
    "ProtocolMismatch",
    "QuotaExceeded",
    "RequestRejected",
    "RoutingError",
    "SecurityError",
    "StreamInterrupted",
    "ToolFailed",
    "UnsupportedRuntime",
    "UntrustedModel",
    "UntrustedPeer",
]


class HybridLLMError(Exception):
    """The base class: `except HybridLLMError` catches everything that this library raises on purpose."""


class ConfigError(HybridLLMError):
    """A file, option or certificate of the app's set-up is wrong; the message says what to do.

    *path* is the file or folder concerned, if there is one.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class PolicyError(ConfigError):
    """A policy is rejected. *line* and *column* count from 1; *errors* has every fault of the file, this first."""

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        line: int = 0,
        column: int = 0,
        hint: str | None = None,
        errors: Sequence[PolicyError] = (),
    ) -> None:
        super().__init__(message, path=path)
        self.line = line
        self.column = column
        self.hint = hint
        self.errors: tuple[PolicyError, ...] = tuple(errors) or (self,)


class UnsupportedRuntime(ConfigError):
    """The library cannot work here: it was in use before this process was forked, or the event loop is not asyncio's
    or not that in which the stream began.

    The message says what to do instead. It is raised at once, before any work.
    """


class InvalidRequest(HybridLLMError, ValueError):
    """The call itself is wrong. *field* names the option; the message states what is allowed."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class ContentRefused(HybridLLMError):
    """A guardrail refuses what the request asks (*direction* `input`), or what the answer says (`output`).

    *category* is the guardrail's code for it, such as `weapons`; *reason* a second one, where there is more to say.
    Reasons of ours: `failed`: the guardrail raised, and refuses what it could not judge. It is not retried, and no
    other backend is asked: what an app got of a refused answer is not the whole of it.
    """

    def __init__(self, message: str, *, guardrail: str, direction: str, category: str, reason: str = "") -> None:
        super().__init__(message)
        self.guardrail = guardrail
        self.direction = direction
        self.category = category
        self.reason = reason


class AuditUnavailable(HybridLLMError):
    """The audit log cannot be written, and is `required`: the request was not answered, and nothing was sent."""


class ToolFailed(HybridLLMError):
    """A tool of `run_tools` failed, where the app wants to be told. Its own error is not kept.

    Reasons: `raised`; `late`: it did not return within `tool_timeout` or the deadline; `result`: what it returned is no
    JSON.
    """

    def __init__(self, message: str, *, tool: str, reason: str) -> None:
        super().__init__(message)
        self.tool = tool
        self.reason = reason


class RoutingError(HybridLLMError):
    """No backend answered. *decision* has which were tried, which were excluded, and why."""

    def __init__(self, message: str, *, decision: Decision) -> None:
        super().__init__(message)
        self.decision = decision


class NoEligibleBackend(RoutingError):
    """Every backend is excluded: by a privacy tag, by a rule, or because it is not ready."""


class AllBackendsFailed(RoutingError):
    """Every backend of the decision failed. *failures* maps its name to its last error, in the order tried."""

    def __init__(self, message: str, *, decision: Decision, failures: Mapping[str, BackendError]) -> None:
        super().__init__(message, decision=decision)
        self.failures = dict(failures)


class BackendError(HybridLLMError):
    """One backend failed once. *retryable*: the same call on the same backend may succeed later.

    *reason* is a short code that says more than the class; empty where there is no more to say.
    """

    retryable: bool = False
    reason: str = ""

    def __init__(self, message: str, *, backend: str) -> None:
        super().__init__(message)
        self.backend = backend


class BackendUnavailable(BackendError):
    """The backend cannot be reached: not loaded, connection refused, shutting down.

    *retry_after* is in seconds, None if unknown. Reasons: `refused`: nothing listens there; `unresolved`: the name has
    no address; `no_route`; `no_response` in time; `disconnected`: the connection broke off; `not_ready`: the node, or
    the model on this device, cannot be used now; `failed`: the model could not compute the request; `closed`; `raised`:
    an error of no class of ours; `no_answer`: its stream was empty; `breaker_open` and `no_retry_left`: no call was
    made. Empty if unknown.
    """

    retryable = True

    def __init__(self, message: str, *, backend: str, retry_after: float | None = None, reason: str = "") -> None:
        super().__init__(message, backend=backend)
        self.retry_after = retry_after
        self.reason = reason


class BackendOverloaded(BackendError):
    """The backend is reachable but full. *retry_after* is in seconds, None if the backend gave none."""

    retryable = True

    def __init__(self, message: str, *, backend: str, retry_after: float | None = None) -> None:
        super().__init__(message, backend=backend)
        self.retry_after = retry_after


class DeadlineExceeded(BackendError):
    """The deadline passed. *elapsed* is in seconds since the request was made.

    *phase* is what was being done: the checks, loading, the privacy scan, routing or the answer; empty if unknown.
    *backend* is empty before one was called.
    """

    def __init__(self, message: str, *, backend: str, elapsed: float | None = None, phase: str = "") -> None:
        super().__init__(message, backend=backend)
        self.elapsed = elapsed
        self.phase = phase


class StreamInterrupted(BackendError):
    """The answer broke off. *received_tokens* had arrived; they are not the whole answer."""

    retryable = True

    def __init__(self, message: str, *, backend: str, received_tokens: int = 0) -> None:
        super().__init__(message, backend=backend)
        self.received_tokens = received_tokens


class RequestRejected(BackendError):
    """This backend cannot take this request. *reason* is a short code, such as `context_overflow`.

    After `context_overflow`, `message_too_large` or `unsupported` the next backend is tried, which may take the
    request. Any other reason ends it, since every backend would reject it.
    """

    def __init__(self, message: str, *, backend: str, reason: str = "invalid_argument") -> None:
        super().__init__(message, backend=backend)
        self.reason = reason


class AuthenticationFailed(BackendError):
    """The backend does not accept our identity: no client certificate, or not one it trusts."""


class PermissionDenied(BackendError):
    """The backend accepts our identity, which does not have this right."""


class QuotaExceeded(BackendError):
    """The quota or budget of this tenant is used up. *retry_after* is in seconds, None if unknown."""

    def __init__(self, message: str, *, backend: str, retry_after: float | None = None) -> None:
        super().__init__(message, backend=backend)
        self.retry_after = retry_after


class ProtocolMismatch(BackendError):
    """The node speaks another version of the protocol. *ours* and *theirs* are version numbers; 0 is unknown."""

    def __init__(self, message: str, *, backend: str, ours: int = 0, theirs: int = 0) -> None:
        super().__init__(message, backend=backend)
        self.ours = ours
        self.theirs = theirs


class OutputInvalid(BackendError):
    """The answer is no value of the request's `output_schema`, or no call of its `tools`.

    *reason* is a short code, *keyword* the schema's.

    Reasons: `not_json`; `schema`, by its *keyword*; `model`: the pydantic model rejects it; `cut`: `max_tokens` ended
    it; `too_deep`: it is nested too deeply to be checked; `tool_call`: a tool call is none of the tools, or does not
    follow its schema; `tool_calls`: it is no object, since the model calls tools. Neither quotes the answer, whose text
    is gone.
    """

    def __init__(self, message: str, *, backend: str, reason: str = "schema", keyword: str = "") -> None:
        super().__init__(message, backend=backend)
        self.reason = reason
        self.keyword = keyword


class SecurityError(HybridLLMError):
    """Trust is broken. It ends the request at once: no retry, no fallback."""


class UntrustedPeer(SecurityError):
    """The peer's certificate is missing, expired, of another authority, or names another host."""

    def __init__(self, message: str, *, backend: str) -> None:
        super().__init__(message)
        self.backend = backend


class UntrustedModel(SecurityError):
    """A model must be signed, and is not what a trusted signer signed. It is not loaded.

    Reasons: `unsigned`: there is no signature; `signer`: the signature cannot be read, or its signer is not trusted,
    or not any more; `invalid`: it is not the signer's; `changed`: a file is changed, missing or not signed.
    """

    def __init__(self, message: str, *, model: str = "", reason: str = "signer") -> None:
        super().__init__(message)
        self.model = model
        self.reason = reason


class DecryptionFailed(SecurityError):
    """Bytes were changed, cut or replayed in transit, or the key is another one."""


class PrivacyViolation(SecurityError):
    """A request was stopped on its way to a *location* that its tags do not allow."""

    def __init__(self, message: str, *, location: str) -> None:
        super().__init__(message)
        self.location = location


def out_of_files(error: BaseException) -> HybridLLMError | None:
    """The error of ours for one of Python's, a lazy import's too, that says that no further file can be opened."""
    reason = os.strerror(errno.EMFILE)
    if (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)) or (
        isinstance(error, ImportError) and reason in str(error)
    ):
        return HybridLLMError(f"{reason}: raise the process's limit of descriptors (`ulimit -n`), or close some")
    return None
