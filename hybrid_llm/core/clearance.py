"""The proof that a request may go to a location: issued by the privacy guard, checked by every backend and cache.

A `Clearance` binds every text of a request, exactly as it was assessed, to one location and one purpose with a MAC
under a secret of this process. A record built by hand, or issued for another text, location or purpose, does not pass.
This module computes and checks the MAC; `router.privacy.guard` decides what is cleared.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.request import Location, Request

_SECRET = secrets.token_bytes(32)


class Purpose(StrEnum):
    """What a request is cleared for."""

    ANSWER = "answer"
    """A backend reads it and answers."""
    CACHE = "cache"
    """A cache stores the answer under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance:
    """The proof for one request: it may go to *location* for *purpose*; *tags* are its effective privacy tags."""

    location: Location
    tags: frozenset[str]
    mac: bytes
    """BLAKE2b over location, purpose, tags and every text of the request, keyed with a secret of this process."""
    purpose: Purpose = Purpose.ANSWER
    sealed: bool = False
    """It may leave only sealed to the backend's own key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A request with its clearance, its texts as `clearance.location` may see them: all that a backend accepts."""

    request: Request
    clearance: Clearance
    traceparent: str = ""
    """Where the call stands in a trace (`core.tracing`), if requests are traced; no part of what is cleared."""


def _texts(request: Request) -> Iterator[str]:
    """Every text that leaves with *request*, preceded by how many there are of each kind."""
    yield request.shape()
    yield from (request.task, request.tenant or "", request.session_id or "", request.request_id)
    yield from request.visible_text()


def _mac(request: Request, location: Location, purpose: Purpose, tags: frozenset[str], *, sealed: bool) -> bytes:
    form = "sealed" if sealed else ""
    parts = [
        part.encode("utf-8", "surrogatepass")
        for part in (location.value, purpose.value, form, str(len(tags)), *sorted(tags), *_texts(request))
    ]
    # All lengths precede all texts, so that two different lists of texts never give the same bytes.
    lengths = struct.pack(f">{len(parts) + 1}Q", len(parts), *map(len, parts))
    return hashlib.blake2b(lengths + b"".join(parts), key=_SECRET, digest_size=32).digest()


def _make_cleared(
    request: Request, location: Location, purpose: Purpose = Purpose.ANSWER, *, sealed: bool = False
) -> Cleared:
    """Issue a clearance under the request's own tags. Only `router.privacy.guard` calls this; a test enforces it."""
    tags = request.privacy
    mac = _mac(request, location, purpose, tags, sealed=sealed)
    clearance = Clearance(location=location, tags=tags, mac=mac, purpose=purpose, sealed=sealed)
    return Cleared(request=request, clearance=clearance)


def require_clearance(
    cleared: Cleared, location: Location, purpose: Purpose = Purpose.ANSWER, *, seals: bool = False
) -> Request:
    """Return the request if its clearance is genuine and covers *location*, *purpose* and exactly this text.

    Only a backend that *seals* what it sends gets a request that must be sealed.

    Raises:
        PrivacyViolation: the clearance is missing, forged, or for another location, purpose, form or text.
    """
    if not isinstance(cleared, Cleared):
        raise PrivacyViolation(f"a request without clearance was sent to {location.value}", location=location.value)
    request, clearance = cleared.request, cleared.clearance
    expected = _mac(request, location, purpose, clearance.tags, sealed=clearance.sealed)
    genuine = hmac.compare_digest(expected, clearance.mac)
    meant = clearance.location is location and clearance.purpose is purpose and clearance.tags == request.privacy
    if not (genuine and meant):
        raise PrivacyViolation(f"the clearance does not cover {location.value}", location=location.value)
    if clearance.sealed and not seals:
        raise PrivacyViolation("the request must be sealed, and this backend seals nothing", location=location.value)
    return request
