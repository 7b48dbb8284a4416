"""What an HTTP server's refusal means: one table from status and code to our errors.

Of the server's words nothing is kept: it has read the request, and may repeat it.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from hybrid_llm.core.errors import (
    AuthenticationFailed,
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    HybridLLMError,
    PermissionDenied,
    QuotaExceeded,
    RequestRejected,
    StreamInterrupted,
    UntrustedPeer,
)

_CONTEXT: Final = frozenset({"context_length_exceeded", "string_above_max_length", "exceed_context_size_error"})
_QUOTA: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_error"})
_FILTERED: Final = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
_SERVER: Final = 500
_LONGEST_WAIT_S: Final = 86_400.0
_OVERLOADED: Final = frozenset({429, 503, 529})
_NOT_FOUND: Final = frozenset({404, 405, 501})
"""The route or the model is not there."""


def refusal(status: int, headers: Mapping[str, str], document: Any, *, backend: str) -> BackendError:
    """The error that an answer with *status* means; *document* is its body, where that is JSON."""
    codes = _codes(document)
    said = f"{backend} answered {status}"
    if status in _OVERLOADED and not codes & _QUOTA:
        return BackendOverloaded(said, backend=backend, retry_after=retry_after(headers))
    if codes & _QUOTA or status == 402:
        return QuotaExceeded(said, backend=backend, retry_after=retry_after(headers))
    if status == 401:
        return AuthenticationFailed(f"{said}: it does not accept the key", backend=backend)
    if status == 403:
        return PermissionDenied(said, backend=backend)
    if 300 <= status < 400:
        return BackendUnavailable(f"{said}: redirects are not followed", backend=backend, reason="failed")
    if (status >= _SERVER and status not in _NOT_FOUND) or status == 408:
        return BackendUnavailable(said, backend=backend, retry_after=retry_after(headers), reason="failed")
    return RequestRejected(said, backend=backend, reason=_reason(status, codes))


def _reason(status: int, codes: frozenset[str]) -> str:
    if codes & _CONTEXT:
        return "context_overflow"
    if codes & _FILTERED:
        return "content_filter"
    if status == 413:
        return "message_too_large"
    return "unsupported" if status in _NOT_FOUND or status in (400, 422) else "invalid_argument"


def _codes(document: Any) -> frozenset[str]:
    """The short words of an error document, in any of the forms that servers use."""
    error = document.get("error", document) if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return frozenset()
    return frozenset(str(error[name]) for name in ("code", "type") if isinstance(error.get(name), str))


def in_stream(document: Mapping[str, Any], received: int, *, backend: str) -> BackendError:
    """The error that an event in place of the rest of an answer means."""
    status = document["error"].get("code") if isinstance(document["error"], dict) else None
    known = isinstance(status, int) and 400 <= status < 600
    error = refusal(status if isinstance(status, int) and known else _SERVER, {}, document, backend=backend)
    return error if not received else interrupted(received, str(error), backend=backend)


def interrupted(received: int, why: str, *, backend: str) -> BackendError:
    """An answer that broke off: after the first token it can only be continued."""
    if not received:
        return BackendUnavailable(why, backend=backend, reason="disconnected")
    text = f"the answer broke off after {received} tokens: {why}"
    return StreamInterrupted(text, backend=backend, received_tokens=received)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the server wants to be asked again: a number, or an HTTP date (RFC 9110, 10.2.3)."""
    if (text := headers.get("retry-after-ms", "")).isdecimal():
        return min(int(text) / 1e3, _LONGEST_WAIT_S)
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        seconds = _seconds_until(text)
    return min(seconds, _LONGEST_WAIT_S) if seconds >= 0.0 and math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    try:
        at = parsedate_to_datetime(date)
    except ValueError:
        return math.nan
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def transport(error: Exception, received: int, *, backend: str) -> HybridLLMError:
    """The error that a failure of the connection means."""
    if _is_certificate(error):
        return UntrustedPeer(f"the certificate of {backend} is not trusted", backend=backend)
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return BackendUnavailable(f"{backend} did not answer in time", backend=backend, reason="no_response")
        case httpx.ConnectError():
            reason = "unresolved" if _is_unresolved(error) else "refused"
            return BackendUnavailable(f"{backend} cannot be reached: {reason}", backend=backend, reason=reason)
        case httpx.TimeoutException():
            return _silent(received, backend)
    return interrupted(received, "the connection broke off", backend=backend)


def _silent(received: int, backend: str) -> BackendError:
    text = f"{backend} sent nothing for too long"
    if received:
        return interrupted(received, text, backend=backend)
    return BackendUnavailable(text, backend=backend, reason="no_response")


def _is_certificate(error: BaseException | None) -> bool:
    return _in_causes(error, ssl.SSLCertVerificationError)


def _is_unresolved(error: BaseException | None) -> bool:
    import socket

    return _in_causes(error, socket.gaierror)


def _in_causes(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
