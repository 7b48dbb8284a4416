"""The privacy guard: what a request is tagged with, where it may go, and the only place where clearances are made.

It filters and never weighs. Whatever is uncertain, such as a detector that raises, keeps the request on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hybrid_llm.policies import Policy
from hybrid_llm.router.clearance import Cleared, _make_cleared
from hybrid_llm.router.detectors import DETECTORS, Detector
from hybrid_llm.router.errors import ConfigError, PrivacyViolation
from hybrid_llm.router.types import Location, Request

__all__ = ["Assessment", "PrivacyGuard"]

_log = logging.getLogger("hybrid_llm.privacy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the guard found. *request* carries the effective tags; *allowed* is every place it may go.

    *uncertain* names the detectors that failed; the request is then local-only.
    """

    request: Request
    allowed: frozenset[Location]
    uncertain: tuple[str, ...] = ()


class PrivacyGuard:
    """Tags requests by what a policy declares and detectors find, and clears them for the places they may go."""

    def __init__(self, detectors: Iterable[Detector] = ()) -> None:
        self._detectors: Mapping[str, Detector] = {**DETECTORS, **{d.name: d for d in detectors}}

    def assess(self, request: Request, policy: Policy) -> Assessment:
        """Find the effective tags, declared and detected, and the places that all of them allow.

        Raises:
            InvalidRequest: a declared tag is not in the policy's vocabulary.
            ConfigError: the policy asks for a detector that does not exist here.
        """
        policy.allowed(request.privacy)  # an undeclared tag is refused before anything is scanned
        tags = set(request.privacy)
        uncertain: list[str] = []
        for tag, rule in policy.tags.items():
            for name in rule.detect:
                if tag not in tags and name not in uncertain:
                    self._apply(name, tag, request, tags, uncertain)
        allowed = policy.allowed(frozenset(tags))
        if uncertain:
            allowed &= {Location.EDGE}
        return Assessment(
            request=replace(request, privacy=frozenset(tags)), allowed=allowed, uncertain=tuple(uncertain)
        )

    def _apply(self, name: str, tag: str, request: Request, tags: set[str], uncertain: list[str]) -> None:
        detector = self._detectors.get(name)
        if detector is None:
            raise ConfigError(f"the policy detects {name!r}, and no such detector is registered")
        try:
            if any(True for text in request.visible_text() for _ in detector.find(text)):
                tags.add(tag)
        except Exception as error:  # noqa: BLE001  # whatever a detector does wrong, the request stays here
            _log.warning("detector %s failed with %s: the request stays on the device", name, type(error).__name__)
            uncertain.append(name)

    def clear(self, assessment: Assessment, location: Location) -> Cleared:
        """Seal the request for *location*.

        Raises:
            PrivacyViolation: the assessment does not allow it; nothing was made.
        """
        if location not in assessment.allowed:
            raise PrivacyViolation(f"the request's tags do not allow {location.value}", location=location.value)
        return _make_cleared(assessment.request, location, assessment.request.privacy)
