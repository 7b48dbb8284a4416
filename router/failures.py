"""How an error of ours looks over HTTP: one table, total over the tree of `core.errors`.

The words of both APIs are made of the same `Failure`. No text of a request or an answer is in it: errors hold none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.core.errors import (
    AllBackendsFailed,
    AuditUnavailable,
    AuthenticationFailed,
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    ContentRefused,
    DeadlineExceeded,
    HybridLLMError,
    InvalidRequest,
    NoEligibleBackend,
    OutputInvalid,
    PermissionDenied,
    PrivacyViolation,
    ProtocolMismatch,
    QuotaExceeded,
    RequestRejected,
    SecurityError,
    StreamInterrupted,
)


@dataclass(frozen=True, slots=True)
class Failure(Exception):
    """An error as a client sees it. *code* is a short word; *param* the field of the request that is wrong.

    With *retry* the official clients may send the request once more, after *retry_after* seconds where it is known.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    retry: bool = False
    retry_after: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What the official clients read: whether, and when, to try again."""
        headers = {"x-should-retry": "true" if self.retry else "false"}
        if self.retry_after is not None:
            headers["retry-after"] = str(math.ceil(self.retry_after))
        return headers

    def as_openai(self) -> dict[str, Any]:
        """The document of OpenAI's APIs."""
        kind = _OPENAI.get(self.status) or ("invalid_request_error" if self.status < _SERVER else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def as_anthropic(self) -> dict[str, Any]:
        """The document of Anthropic's API; its types take the place of codes."""
        kind = _ANTHROPIC.get(self.status) or ("invalid_request_error" if self.status < _SERVER else "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}


_SERVER: Final = 500
_OPENAI: Final[Mapping[int, str]] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

_BY_CLASS: Final[Mapping[type[HybridLLMError], tuple[int, str, bool]]] = {
    PrivacyViolation: (403, "privacy_violation", False),
    SecurityError: (502, "untrusted_backend", False),
    ContentRefused: (400, "content_filter", False),
    AuditUnavailable: (503, "audit_unavailable", True),
    NoEligibleBackend: (503, "no_eligible_backend", False),
    QuotaExceeded: (429, "insufficient_quota", False),
    BackendOverloaded: (503, "overloaded", True),
    BackendUnavailable: (503, "backend_unavailable", True),
    DeadlineExceeded: (504, "deadline_exceeded", False),
    StreamInterrupted: (502, "stream_interrupted", True),
    OutputInvalid: (502, "invalid_output", True),
    # The gateway's own rights at a backend are the operator's matter, not that of the client.
    AuthenticationFailed: (502, "backend_refused_us", False),
    PermissionDenied: (502, "backend_refused_us", False),
    ProtocolMismatch: (502, "backend_version", False),
    BackendError: (502, "backend_failed", True),
    HybridLLMError: (500, "internal_error", False),
}
"""Class -> status, code and whether to try again; the nearest class counts. The others have functions of their own."""
STATUSES: Final = tuple(sorted({400, 401, 404, 408, 413, 415, *(status for status, _, _ in _BY_CLASS.values())}))
"""Every status that an error has; those that are written out are of the gateway itself."""
UNEXPECTED: Final = Failure(500, "internal_error", "the gateway failed; its log has the request's id")


def failure_of(error: Exception) -> Failure:
    """What is reported to a client of *error*."""
    match error:
        case Failure():
            return error
        case InvalidRequest(field=field):
            return Failure(400, "invalid_value", str(error), param=field)
        case RequestRejected():
            return _rejected(error)
        case AllBackendsFailed(failures=failures) if failures:
            return _all_failed(error, failures)
        case HybridLLMError():
            return _by_class(error)
        case RecursionError():
            return Failure(400, "invalid_value", "the request is nested too deeply")
    return UNEXPECTED


def _by_class(error: HybridLLMError) -> Failure:
    status, code, retry = next(_BY_CLASS[kind] for kind in type(error).__mro__ if kind in _BY_CLASS)
    return Failure(status, code, str(error), retry=retry, retry_after=getattr(error, "retry_after", None))


def _rejected(error: RequestRejected) -> Failure:
    code = "context_length_exceeded" if error.reason == "context_overflow" else error.reason
    return Failure(413 if error.reason == "message_too_large" else 400, code, str(error))


def _all_failed(error: AllBackendsFailed, failures: Mapping[str, BackendError]) -> Failure:
    """The failure that most helps the client: what is wrong with the request, else when to try again, else the last."""
    found = [failure_of(each) for each in failures.values()]
    wrong = [each for each in found if each.status < _SERVER and each.status != 429]
    waits = [each for each in found if each.retry]
    best = (wrong if len(wrong) == len(found) else waits or found)[-1]
    return Failure(best.status, best.code, str(error), best.param, best.retry, best.retry_after)
