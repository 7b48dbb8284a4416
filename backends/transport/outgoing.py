"""The last look before a request leaves: its bytes are read back and held against the clearance. It sends nothing."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from hybrid_llm.backends.transport.wire import request_from_wire, request_to_wire
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.clearance import Clearance, Cleared, require_clearance
from hybrid_llm.router.errors import PrivacyViolation
from hybrid_llm.router.types import Location

__all__ = ["hold_to_clearance", "outgoing"]


def outgoing(cleared: Cleared, *, remaining: float) -> bytes:
    """The bytes of a request that is cleared for the cloud; *remaining* is what is left of its deadline, in seconds.

    Raises:
        PrivacyViolation: the clearance does not cover the request, or not what the bytes say.
        KeyError, ValueError, TypeError: as `request_to_wire` has.
    """
    request = require_clearance(cleared, Location.CLOUD)
    data = request_to_wire(request, remaining=remaining).SerializeToString(deterministic=True)
    hold_to_clearance(data, cleared.clearance)
    return data


def hold_to_clearance(data: bytes, clearance: Clearance) -> None:
    """Make sure that *data* holds the request that *clearance* was made for, and nothing beside it.

    Raises:
        PrivacyViolation: it holds another text, or something that a request does not have.
    """
    try:
        message = pb.GenerateRequest.FromString(data)
        sent = request_from_wire(message, deadline=message.deadline_seconds)
    except (DecodeError, KeyError):
        raise _beside() from None
    require_clearance(Cleared(request=sent, clearance=clearance), Location.CLOUD)
    if request_to_wire(sent, remaining=message.deadline_seconds).SerializeToString(deterministic=True) != data:
        raise _beside()


def _beside() -> PrivacyViolation:
    return PrivacyViolation("what is about to be sent is not what was cleared", location=Location.CLOUD.value)
