"""The proof that a request may go to a place: made by the privacy guard, demanded by every backend.

A `Clearance` binds the exact bytes of the messages to one location. It is keyed with a secret of this process, so a
record built by hand, or one for another text or place, does not pass. This module holds the seal and the check; who
may be cleared is decided in `router.privacy`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from hybrid_llm.router.errors import PrivacyViolation
from hybrid_llm.router.types import Location, Request

__all__ = ["Clearance", "Cleared", "require_clearance"]

_SECRET = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance:
    """*location* is where the request may go, *tags* the effective tags it was judged by, *seal* the proof."""

    location: Location
    tags: frozenset[str]
    seal: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A request in the form in which it may go to `clearance.location`: the only thing a backend accepts."""

    request: Request
    clearance: Clearance


def _seal(request: Request, location: Location, tags: frozenset[str]) -> bytes:
    mac = hashlib.blake2b(key=_SECRET, digest_size=32)
    roles = ",".join(message.role for message in request.messages)
    parts = [location.value, *sorted(tags), "\x00", roles, *request.visible_text()]
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        mac.update(len(data).to_bytes(8, "big"))
        mac.update(data)
    return mac.digest()


def _make_cleared(request: Request, location: Location, tags: frozenset[str]) -> Cleared:
    """Seal *request* for *location*. Called by `router.privacy.guard` alone; a test holds every module to that."""
    return Cleared(
        request=request,
        clearance=Clearance(location=location, tags=tags, seal=_seal(request, location, tags)),
    )


def require_clearance(cleared: Cleared, location: Location) -> Request:
    """Return the request, once its clearance is proved genuine, for *location* and for this very text.

    Raises:
        PrivacyViolation: the clearance is missing, forged, for another place or for another text.
    """
    if not isinstance(cleared, Cleared):
        raise PrivacyViolation(f"a request without clearance was sent to {location.value}", location=location.value)
    clearance = cleared.clearance
    genuine = hmac.compare_digest(_seal(cleared.request, location, clearance.tags), clearance.seal)
    if clearance.location is not location or not genuine:
        raise PrivacyViolation(f"the clearance does not cover {location.value}", location=location.value)
    return cleared.request
