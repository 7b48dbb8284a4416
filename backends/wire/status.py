"""The one table between our errors and gRPC's status codes, used by client and node. It opens nothing.

Several errors share a code: the kind and the facts travel beside it, in the trailing metadata `hybrid-llm-error-bin`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc import StatusCode

from hybrid_llm.backends.wire.vocabulary import REASONS, known
from hybrid_llm.core import errors
from hybrid_llm.core.request import Location
from hybrid_llm.protos import hybrid_pb2 as pb

PROTOCOL_KEY: Final = "hybrid-llm-protocol"
PRIORITY_KEY: Final = "hybrid-llm-priority"
LOAD_KEY: Final = "hybrid-llm-load-bin"
ERROR_KEY: Final = "hybrid-llm-error-bin"

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """An error on the wire: *message* is for people, *detail* goes into the trailing metadata."""

    code: StatusCode
    message: str
    detail: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    error: type[errors.HybridLLMError]
    code: StatusCode
    facts: tuple[str, ...] = ()
    """Attributes of the error that travel with it, under the same names."""


ROWS: Final[dict[str, _Row]] = {
    "backend_unavailable": _Row(errors.BackendUnavailable, StatusCode.UNAVAILABLE, ("retry_after", "reason")),
    "backend_overloaded": _Row(errors.BackendOverloaded, StatusCode.RESOURCE_EXHAUSTED, ("retry_after",)),
    "deadline_exceeded": _Row(errors.DeadlineExceeded, StatusCode.DEADLINE_EXCEEDED, ("elapsed",)),
    "stream_interrupted": _Row(errors.StreamInterrupted, StatusCode.ABORTED, ("received_tokens",)),
    "request_rejected": _Row(errors.RequestRejected, StatusCode.INVALID_ARGUMENT, ("reason",)),
    "authentication_failed": _Row(errors.AuthenticationFailed, StatusCode.UNAUTHENTICATED),
    "permission_denied": _Row(errors.PermissionDenied, StatusCode.PERMISSION_DENIED),
    "quota_exceeded": _Row(errors.QuotaExceeded, StatusCode.RESOURCE_EXHAUSTED, ("retry_after",)),
    "output_invalid": _Row(errors.OutputInvalid, StatusCode.INTERNAL, ("reason",)),
    "protocol_mismatch": _Row(errors.ProtocolMismatch, StatusCode.FAILED_PRECONDITION, ("ours", "theirs")),
    "untrusted_peer": _Row(errors.UntrustedPeer, StatusCode.UNAUTHENTICATED),
    "untrusted_model": _Row(errors.UntrustedModel, StatusCode.FAILED_PRECONDITION),
    "decryption_failed": _Row(errors.DecryptionFailed, StatusCode.DATA_LOSS),
    "privacy_violation": _Row(errors.PrivacyViolation, StatusCode.PERMISSION_DENIED, ("location",)),
}
"""Kind -> the error, its code, and the facts that travel with it."""

DEFAULTS: Final[dict[StatusCode, str]] = {
    StatusCode.OK: "stream_interrupted",
    StatusCode.CANCELLED: "backend_unavailable",
    StatusCode.UNKNOWN: "backend_unavailable",
    StatusCode.INVALID_ARGUMENT: "request_rejected",
    StatusCode.DEADLINE_EXCEEDED: "deadline_exceeded",
    StatusCode.NOT_FOUND: "request_rejected",
    StatusCode.ALREADY_EXISTS: "request_rejected",
    StatusCode.PERMISSION_DENIED: "permission_denied",
    StatusCode.RESOURCE_EXHAUSTED: "backend_overloaded",
    StatusCode.FAILED_PRECONDITION: "protocol_mismatch",
    StatusCode.ABORTED: "stream_interrupted",
    StatusCode.OUT_OF_RANGE: "request_rejected",
    StatusCode.UNIMPLEMENTED: "protocol_mismatch",
    StatusCode.INTERNAL: "backend_unavailable",
    StatusCode.UNAVAILABLE: "backend_unavailable",
    StatusCode.DATA_LOSS: "decryption_failed",
    StatusCode.UNAUTHENTICATED: "authentication_failed",
}
"""What a code means that comes without a kind: from gRPC itself or a proxy. OK is an answer that ended too early."""

_KINDS: Final = {row.error: kind for kind, row in ROWS.items()}
_CODES: Final = {row.error.__name__: row.code.name for row in ROWS.values()} | {"ok": "OK", "cancelled": "CANCELLED"}
_MOST: Final = 2.0**31
"""The largest plausible fact: a week in seconds is far below it, and NaN is not."""
_CUT: Final = (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
"""The codes that gRPC itself gives a call whose connection broke off."""
_BROKEN: Final = (errors.BackendUnavailable, errors.BackendOverloaded, errors.StreamInterrupted)


def code_of(outcome: str) -> str:
    """The name of the code of a call that ended so: `ok`, `cancelled`, or the class of an error."""
    return _CODES.get(outcome, "UNKNOWN")


def encode(error: errors.HybridLLMError) -> Status:
    """Return how *error* goes over the wire.

    Raises:
        KeyError: it is neither a backend's nor a security error; no other error leaves a node.
    """
    kind = _KINDS[type(error)]
    row = ROWS[kind]
    facts = {name: value for name in row.facts if (value := getattr(error, name)) is not None}
    detail = pb.ErrorDetail(kind=kind, **facts)
    return Status(code=row.code, message=str(error), detail=detail.SerializeToString())


def decode(
    code: StatusCode, message: str, trailing: Metadata, *, backend: str, received_tokens: int = 0
) -> errors.HybridLLMError:
    """Return the error that a status means; once tokens were received, a break is a `StreamInterrupted`.

    Of *message* only what `known` knows is used: the peer has read the request, and may repeat it.
    """
    detail = _detail(trailing)
    said = known(message) or f"{backend} answered {code.name}"
    if not detail.kind and code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return errors.RequestRejected(said, backend=backend, reason="message_too_large")
    row = ROWS[detail.kind if detail.kind in ROWS else DEFAULTS[code]]
    error = row.error(said, **_arguments(row, detail, backend))
    if not detail.kind and code in _CUT and isinstance(error, errors.BackendUnavailable):
        error.reason = "disconnected"
    if received_tokens and isinstance(error, _BROKEN):
        text = f"the answer broke off after {received_tokens} tokens: {error}"
        return errors.StreamInterrupted(text, backend=backend, received_tokens=received_tokens)
    return error


def _arguments(row: _Row, detail: pb.ErrorDetail, backend: str) -> dict[str, Any]:
    """The keyword arguments of the row's error; a fact that was not sent keeps the error's own default."""
    sent = {field.name: value for field, value in detail.ListFields() if _is_plausible(field.name, value)}
    if row.error is errors.ProtocolMismatch:  # the sender's "theirs" is ours
        return {"backend": backend, "ours": sent.get("theirs", 0), "theirs": sent.get("ours", 0)}
    if row.error is errors.PrivacyViolation:
        return {"location": sent.get("location", "cloud")}
    facts = {name: sent[name] for name in row.facts if name in sent}
    return facts if row.error in (errors.DecryptionFailed, errors.UntrustedModel) else {"backend": backend, **facts}


def _is_plausible(name: str, value: Any) -> bool:
    """Whether a fact is a word or a number that a node of ours may send."""
    if name == "reason":
        return value in REASONS
    if name == "location":
        return value in {location.value for location in Location}
    return not isinstance(value, int | float) or 0 <= value <= _MOST


def has_detail(trailing: Metadata) -> bool:
    """Whether the status came from one of our nodes, rather than from gRPC itself or a proxy."""
    return bool(_detail(trailing).kind)


def _detail(trailing: Metadata) -> pb.ErrorDetail:
    data = next((value for key, value in trailing if key == ERROR_KEY), b"")
    try:
        return pb.ErrorDetail.FromString(data if isinstance(data, bytes) else b"")
    except DecodeError:
        return pb.ErrorDetail()
