"""The one table between our errors and gRPC's status codes, used by client and node. It opens nothing.

Several errors share a code: the kind and the facts travel beside it, in the trailing metadata `hybrid-llm-error-bin`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from grpc import StatusCode

from hybrid_llm.core.errors import (
    AuthenticationFailed,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    DecryptionFailed,
    HybridLLMError,
    PermissionDenied,
    PrivacyViolation,
    ProtocolMismatch,
    QuotaExceeded,
    RequestRejected,
    StreamInterrupted,
    UntrustedPeer,
)
from hybrid_llm.protos import hybrid_pb2 as pb

PROTOCOL_KEY = "hybrid-llm-protocol"
LOAD_KEY = "hybrid-llm-load-bin"
ERROR_KEY = "hybrid-llm-error-bin"

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How an error looks on the wire: *message* is for people, *detail* goes into the trailing metadata."""

    code: StatusCode
    message: str
    detail: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    error: type[HybridLLMError]
    code: StatusCode
    build: Callable[[str, str, pb.ErrorDetail], HybridLLMError]
    """Takes the message, the name of the backend, and the facts."""


def _optional(detail: pb.ErrorDetail, name: str) -> float | None:
    return float(getattr(detail, name)) if detail.HasField(name) else None


ROWS: dict[str, _Row] = {
    "backend_unavailable": _Row(
        BackendUnavailable,
        StatusCode.UNAVAILABLE,
        lambda text, name, facts: BackendUnavailable(text, backend=name, retry_after=_optional(facts, "retry_after")),
    ),
    "backend_overloaded": _Row(
        BackendOverloaded,
        StatusCode.RESOURCE_EXHAUSTED,
        lambda text, name, facts: BackendOverloaded(text, backend=name, retry_after=_optional(facts, "retry_after")),
    ),
    "deadline_exceeded": _Row(
        DeadlineExceeded,
        StatusCode.DEADLINE_EXCEEDED,
        lambda text, name, facts: DeadlineExceeded(text, backend=name, elapsed=_optional(facts, "elapsed")),
    ),
    "stream_interrupted": _Row(
        StreamInterrupted,
        StatusCode.ABORTED,
        lambda text, name, facts: StreamInterrupted(text, backend=name, received_tokens=facts.received_tokens),
    ),
    "request_rejected": _Row(
        RequestRejected,
        StatusCode.INVALID_ARGUMENT,
        lambda text, name, facts: RequestRejected(text, backend=name, reason=facts.reason or "invalid_argument"),
    ),
    "authentication_failed": _Row(
        AuthenticationFailed, StatusCode.UNAUTHENTICATED, lambda text, name, _: AuthenticationFailed(text, backend=name)
    ),
    "permission_denied": _Row(
        PermissionDenied, StatusCode.PERMISSION_DENIED, lambda text, name, _: PermissionDenied(text, backend=name)
    ),
    "quota_exceeded": _Row(
        QuotaExceeded,
        StatusCode.RESOURCE_EXHAUSTED,
        lambda text, name, facts: QuotaExceeded(text, backend=name, retry_after=_optional(facts, "retry_after")),
    ),
    "protocol_mismatch": _Row(
        ProtocolMismatch,
        StatusCode.FAILED_PRECONDITION,
        # The sender's "theirs" is ours.
        lambda text, name, facts: ProtocolMismatch(text, backend=name, ours=facts.theirs, theirs=facts.ours),
    ),
    "untrusted_peer": _Row(
        UntrustedPeer, StatusCode.UNAUTHENTICATED, lambda text, name, _: UntrustedPeer(text, backend=name)
    ),
    "decryption_failed": _Row(DecryptionFailed, StatusCode.DATA_LOSS, lambda text, _name, _: DecryptionFailed(text)),
    "privacy_violation": _Row(
        PrivacyViolation,
        StatusCode.PERMISSION_DENIED,
        lambda text, _name, facts: PrivacyViolation(text, location=facts.location or "cloud"),
    ),
}
"""Kind -> the error, its code, and how the receiver builds it."""

DEFAULTS: dict[StatusCode, str] = {
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
"""What a code means that comes without a kind: from gRPC itself or something between. OK is one where more was due."""

_KINDS = {row.error: kind for kind, row in ROWS.items()}
_FACTS = ("reason", "retry_after", "ours", "theirs", "received_tokens", "elapsed", "location")
_BROKEN = (BackendUnavailable, BackendOverloaded, StreamInterrupted)


def encode(error: HybridLLMError) -> Status:
    """Return how *error* goes over the wire.

    Raises:
        KeyError: the error is none of a backend's or of security's; such a one never leaves a node.
    """
    kind = _KINDS[type(error)]
    facts = {name: value for name in _FACTS if (value := getattr(error, name, None)) is not None}
    detail = pb.ErrorDetail(kind=kind, **facts)
    return Status(code=ROWS[kind].code, message=str(error), detail=detail.SerializeToString())


def decode(
    code: StatusCode, message: str, trailing: Metadata, *, backend: str, received_tokens: int = 0
) -> HybridLLMError:
    """Return the error that a status means; once tokens were received, a break is a `StreamInterrupted`."""
    detail = _detail(trailing)
    if not detail.kind and code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return RequestRejected(message, backend=backend, reason="message_too_large")
    kind = detail.kind if detail.kind in ROWS else DEFAULTS[code]
    text = message or f"{backend} answered {code.name}"
    error = ROWS[kind].build(text, backend, detail)
    if received_tokens and isinstance(error, _BROKEN):
        text = f"the answer broke off after {received_tokens} tokens: {text}"
        return StreamInterrupted(text, backend=backend, received_tokens=received_tokens)
    return error


def has_detail(trailing: Metadata) -> bool:
    """Whether the status came from a node of ours, rather than from gRPC or something between."""
    return bool(_detail(trailing).kind)


def _detail(trailing: Metadata) -> pb.ErrorDetail:
    data = next((value for key, value in trailing if key == ERROR_KEY), b"")
    try:
        return pb.ErrorDetail.FromString(data if isinstance(data, bytes) else b"")
    except DecodeError:
        return pb.ErrorDetail()
