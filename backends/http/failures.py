"""What an HTTP server's refusal means: one table from status and code to our errors.

Of the server's words nothing is kept: it has read the request, and may repeat it.
"""

from __future__ import annotations

import math
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from hybrid_llm.backends.http.document import error_of, object_of, text_of
from hybrid_llm.backends.wire.handshake import NO_ROUTE, NOT_TLS
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
_TOO_LONG: Final = ("maximum context length", "prompt is too long", "exceeds the available context size")
"""What servers that have no code for it write of a prompt that is too long: vLLM, Anthropic, llama.cpp."""
_QUOTA: Final = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_error", "contract_spend_limit_reached"}
    | {"enforced_spend_limit_reached", "organization_on_hold", "linked_organization_spend_limit_reached"}
)
_FILTERED: Final = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
_SERVER: Final = 500
_LONGEST_WAIT_S: Final = 86_400.0
_OVERLOADED: Final = frozenset({429, 503, 529})
_NOT_FOUND: Final = frozenset({404, 405, 501})
"""The route or the model is not there."""
_MEANS: Final[Mapping[int, str]] = {
    404: ": it does not have the model, or `base_url` is not where its API begins, such as at /v1",
}
"""What a status is most often the result of."""
STATUS_OF: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "memory_path_conflict_error": 409,
    "memory_precondition_failed_error": 412,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that the type of an error means, in an answer that began with 200."""
CONNECTION_ERRORS: Final = (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError)
"""What the connection to a server, or what comes over it, can raise."""
_LIMITS: Final = ("requests", "tokens", "input-tokens", "output-tokens")
_PARTS_OF_TIME: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_UNITS_S: Final[Mapping[str, float]] = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def refusal(status: int, headers: Mapping[str, str], document: Any, *, backend: str) -> BackendError:
    """The error that an answer with *status* means; *document* is its body, where that is JSON."""
    codes = _codes(document)
    said = f"{backend} answered {status}{_MEANS.get(status, '')}"
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
    return RequestRejected(said, backend=backend, reason=_reason(status, codes, document))


def _reason(status: int, codes: frozenset[str], document: Any) -> str:
    if codes & _CONTEXT or (status == 400 and _is_too_long(document)):
        return "context_overflow"
    if codes & _FILTERED:
        return "content_filter"
    if status == 413:
        return "message_too_large"
    return "unsupported" if status in _NOT_FOUND or status in (400, 422) else "invalid_argument"


def _codes(document: Any) -> frozenset[str]:
    """The short words of an error document, in any of the forms that servers use."""
    error = error_of(document)
    found = (error.get("code"), error.get("type"), object_of(error.get("details")).get("error_code"))
    return frozenset(each for each in found if isinstance(each, str))


def _is_too_long(document: Any) -> bool:
    said = text_of(error_of(document).get("message"))
    return any(words in said for words in _TOO_LONG)


def in_stream(document: Mapping[str, Any], received: int, *, backend: str) -> BackendError:
    """The error that an event in place of the rest of an answer means."""
    error = refusal(_status_of(error_of(document)), {}, document, backend=backend)
    return error if not received else interrupted(received, str(error), backend=backend)


def _status_of(error: Mapping[str, Any]) -> int:
    code, kind = error.get("code"), error.get("type")
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return next((STATUS_OF[each] for each in (kind, code) if isinstance(each, str) and each in STATUS_OF), _SERVER)


def interrupted(received: int, why: str, *, backend: str) -> BackendError:
    """An answer that broke off: after the first token it can only be continued."""
    if not received:
        return BackendUnavailable(why, backend=backend, reason="disconnected")
    text = f"the answer broke off after {received} tokens: {why}"
    return StreamInterrupted(text, backend=backend, received_tokens=received)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the server wants to be asked again: a number, or an HTTP date (RFC 9110, 10.2.3).

    Where it names none, a limit of its rates that is used up counts, until the instant at which it is renewed.
    """
    if (text := headers.get("retry-after-ms", "")).isdecimal():
        return min(float(text) / 1e3, _LONGEST_WAIT_S)
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        seconds = _until(parsedate_to_datetime, text) if text else max(_resets(headers), default=math.nan)
    return min(seconds, _LONGEST_WAIT_S) if seconds >= 0.0 and math.isfinite(seconds) else None


def _until(read: Callable[[str], datetime], date: str) -> float:
    try:
        at = read(date)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return math.nan


def _resets(headers: Mapping[str, str]) -> Iterator[float]:
    """Seconds until each limit that is used up is renewed: Anthropic's are instants, OpenAI's times such as `6m0s`."""
    for limit in _LIMITS:
        if headers.get(f"anthropic-ratelimit-{limit}-remaining") == "0":
            yield _until(datetime.fromisoformat, headers.get(f"anthropic-ratelimit-{limit}-reset", ""))
        if headers.get(f"x-ratelimit-remaining-{limit}") == "0":
            yield _duration(headers.get(f"x-ratelimit-reset-{limit}", ""))


def _duration(text: str) -> float:
    if not re.fullmatch(f"(?:{_PARTS_OF_TIME.pattern})+", text):
        return math.nan
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PARTS_OF_TIME.findall(text))


def transport(error: Exception, received: int, *, backend: str) -> HybridLLMError:
    """The error that a failure of the connection means."""
    if _in_causes(error, ssl.SSLCertVerificationError):
        return UntrustedPeer(f"the certificate of {backend} is not trusted", backend=backend)
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return BackendUnavailable(f"{backend} did not answer in time", backend=backend, reason="no_response")
        case httpx.ConnectError():
            reason, text = _why_unreachable(error)
            return BackendUnavailable(f"{backend} cannot be reached: {text}", backend=backend, reason=reason)
        case httpx.TimeoutException():
            return _silent(received, backend)
    return interrupted(received, "the connection broke off", backend=backend)


def is_silence(error: Exception) -> bool:
    """Whether a server took the request and then sent nothing, rather than that the connection was lost."""
    return isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout)


def _silent(received: int, backend: str) -> BackendError:
    text = f"{backend} sent nothing for too long"
    if received:
        return interrupted(received, text, backend=backend)
    return BackendUnavailable(text, backend=backend, reason="no_response")


def _why_unreachable(error: Exception) -> tuple[str, str]:
    """The code and the text of the reason why no connection came about."""
    if failed := next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None):
        is_plain = failed.reason in NOT_TLS
        return "disconnected", "it does not speak TLS; is it http?" if is_plain else "the TLS handshake broke off"
    if _in_causes(error, socket.gaierror):
        return "unresolved", "its name does not resolve"
    if any(isinstance(each, OSError) and each.errno in NO_ROUTE for each in _causes(error)):
        return "no_route", "no route to host"
    if _in_causes(error, ConnectionResetError):
        return "disconnected", "the connection was reset"
    return "refused", "connection refused"


def _in_causes(error: BaseException | None, kind: type[BaseException]) -> bool:
    return any(isinstance(each, kind) for each in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """*error*, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
