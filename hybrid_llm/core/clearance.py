"""The proof that a request may go to a place: made by the privacy guard, demanded by every backend, cache and wire.

A `Clearance` binds every text of a request, in the form in which it was judged, to one location and one purpose. It is
keyed with a secret of this process, so a record built by hand, or one for another text, place or purpose, does not
pass. This module holds the seal and the check; who may be cleared is decided in `router.privacy.guard`.
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
    """A cache keeps the answer under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance:
    """*location* is where the request may go, *tags* the effective tags it was judged by, *seal* the proof."""

    location: Location
    tags: frozenset[str]
    seal: bytes
    purpose: Purpose = Purpose.ANSWER


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A request in the form in which it may go to `clearance.location`: the only thing a backend accepts."""

    request: Request
    clearance: Clearance


def _texts(request: Request) -> Iterator[str]:
    """Every text that could leave with *request*, and how many of each kind there are."""
    sampling = request.sampling
    yield f"{request.output_schema is not None} {len(request.tools)} {len(sampling.stop)}"
    yield ",".join(message.role for message in request.messages)
    yield from (request.task, request.tenant or "", request.session_id or "", request.request_id)
    yield from request.visible_text()


def _seal(request: Request, location: Location, purpose: Purpose, tags: frozenset[str]) -> bytes:
    """All lengths stand before all texts, so that no two lists of texts make the same bytes."""
    parts = [
        part.encode("utf-8", "surrogatepass")
        for part in (location.value, purpose.value, str(len(tags)), *sorted(tags), *_texts(request))
    ]
    lengths = struct.pack(f">{len(parts) + 1}Q", len(parts), *map(len, parts))
    return hashlib.blake2b(lengths + b"".join(parts), key=_SECRET, digest_size=32).digest()


def _make_cleared(request: Request, location: Location, purpose: Purpose = Purpose.ANSWER) -> Cleared:
    """Seal *request* under its tags. Called by `router.privacy.guard` alone; a test holds every module to that."""
    tags = request.privacy
    seal = _seal(request, location, purpose, tags)
    return Cleared(request=request, clearance=Clearance(location=location, tags=tags, seal=seal, purpose=purpose))


def require_clearance(cleared: Cleared, location: Location, purpose: Purpose = Purpose.ANSWER) -> Request:
    """Return the request, once its clearance is proved genuine, for *location*, *purpose* and this very text.

    Raises:
        PrivacyViolation: the clearance is missing, forged, or for another place, purpose or text.
    """
    if not isinstance(cleared, Cleared):
        raise PrivacyViolation(f"a request without clearance was sent to {location.value}", location=location.value)
    request, clearance = cleared.request, cleared.clearance
    genuine = hmac.compare_digest(_seal(request, location, purpose, clearance.tags), clearance.seal)
    meant = clearance.location is location and clearance.purpose is purpose and clearance.tags == request.privacy
    if not (genuine and meant):
        raise PrivacyViolation(f"the clearance does not cover {location.value}", location=location.value)
    return request
