"""The privacy guard: what a request is tagged with, where it may go and in which form; clearances are made here alone.

It filters and never weighs. Whatever is uncertain keeps the request on the device: a detector that raises, a tag that
demands pseudonyms where nothing is found to replace, a form in which something is still found.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from hybrid_llm.core.clearance import Cleared, Purpose, _make_cleared
from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.request import Location, PartialAnswer, Request
from hybrid_llm.policies import Policy, TagRule
from hybrid_llm.router.privacy.detectors import DETECTORS, Detector, Finding, Prepared, find_with
from hybrid_llm.router.privacy.restore import restored, restorer
from hybrid_llm.router.privacy.sessions import Lease, Sessions

_log = logging.getLogger("hybrid_llm.privacy")
_DEVICE: Final = frozenset({Location.EDGE})
_CLOSED: Final = "the client is closed, and what its pseudonyms stood for is wiped"
_Findings = list[tuple[Finding, ...]]
"""What was found in each text of `Request.visible_text`, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the guard found. *request* carries the effective tags and the texts as the app wrote them.

    *allowed* is every place it may go, *keepable* every place where an answer to it may be kept, and *barred* says,
    for people, why a place that the tags allow is out all the same.
    """

    request: Request
    allowed: frozenset[Location]
    keepable: frozenset[Location] = frozenset()
    barred: Mapping[Location, str] = field(default_factory=dict)
    hidden: Request | None = field(default=None, repr=False)
    """The form for the cloud, where it differs: with pseudonyms."""
    lease: Lease | None = None
    """Holds what the pseudonyms of *hidden* stand for, until the request is over."""

    def form(self, location: Location) -> Request:
        """The request as *location* may see it."""
        return self.request if location is Location.EDGE or self.hidden is None else self.hidden


class PrivacyGuard:
    """Tags requests by what a policy declares and detectors find, and clears them for the places they may go."""

    def __init__(self, detectors: Iterable[Detector] = (), *, sessions: Sessions | None = None) -> None:
        self._detectors: Mapping[str, Detector] = {**DETECTORS, **{d.name: d for d in detectors}}
        self._sessions = sessions if sessions is not None else Sessions()  # an empty one is false

    def assess(self, request: Request, policy: Policy, *, behind: Assessment | None = None) -> Assessment:
        """Find the effective tags, declared and detected, and the places and forms that all of them allow.

        *behind* is what was found for the request that this one continues: what was replaced there is replaced here,
        even if the session was forgotten or the client closed meanwhile.

        Raises:
            InvalidRequest: a declared tag is not in the policy's vocabulary.
            ConfigError: the policy asks for a detector that does not exist here.
        """
        policy.allowed(request.privacy)  # an undeclared tag is refused before anything is scanned
        scan = _Scan(self._detectors, tuple(request.visible_text()))
        more = (tag for tag in policy.tags if tag not in request.privacy)
        tags = request.privacy | {tag for tag in more if scan.sees(policy.tags[tag])}
        allowed, keepable = policy.allowed(tags), policy.keepable(tags)
        tagged = request if tags == request.privacy else replace(request, privacy=tags)
        judged = Assessment(request=tagged, allowed=allowed, keepable=keepable)
        if scan.failed:
            return _failed(judged, scan)
        if Location.CLOUD not in allowed:
            return judged
        hiding = sorted(tag for tag in tags if policy.tags[tag].pseudonymise)
        held = behind.lease.shared() if behind is not None and behind.lease is not None else None
        return self._hide(judged, policy, hiding, scan, held) if hiding else self._hide_known(judged, scan, held)

    def assess_behind(self, known: Assessment, given: PartialAnswer, policy: Policy) -> Assessment:
        """Judge what was *given* as an answer, together with its request: it may hold what the request did not."""
        return self.assess(known.request.behind(given), policy, behind=known)

    def _hide(
        self, judged: Assessment, policy: Policy, hiding: list[str], scan: _Scan, held: Lease | None
    ) -> Assessment:
        """Make the form for the cloud of what the tags *hiding* find, and of what the session knows already."""
        names = sorted({name for tag in hiding for name in policy.tags[tag].detect})
        found = scan.merged(names)
        if scan.failed:
            return _failed(judged, scan)
        for tag in hiding:
            if not scan.sees(policy.tags[tag]):
                return _kept_here(judged, f"tag {tag} was declared, and no detector finds what to replace")
        try:
            lease = held or self._sessions.open(judged.request.session_id, tenant=judged.request.tenant)
        except PrivacyViolation:
            return _kept_here(judged, _CLOSED)
        return self._formed(judged, _replaced(judged.request, scan.texts, found, lease), names, lease)

    def _hide_known(self, judged: Assessment, scan: _Scan, held: Lease | None) -> Assessment:
        """Nothing is found now, but the session may know a value: it came back in an answer, and is here again."""
        try:
            lease = held or self._sessions.resume(judged.request.session_id, tenant=judged.request.tenant)
        except PrivacyViolation:
            return _kept_here(judged, _CLOSED)
        if lease is None:
            return judged
        nothing: _Findings = [() for _ in scan.texts]
        return self._formed(judged, _replaced(judged.request, scan.texts, nothing, lease), [], lease)

    def _formed(self, judged: Assessment, hidden: Request | None, names: list[str], lease: Lease) -> Assessment:
        """Look at the form for the cloud again: whatever is in doubt keeps the request here."""
        why = self._doubt(hidden, names, lease.table.begins_value(judged.request.answer_prefix))
        if hidden is None or why:
            lease.close()
            return _kept_here(judged, why)
        if hidden == judged.request:
            lease.close()
            return judged
        return replace(judged, hidden=hidden, lease=lease, keepable=judged.keepable & _DEVICE)

    def _doubt(self, hidden: Request | None, names: list[str], torn: bool) -> str:  # noqa: FBT001
        """Why the form for the cloud may not leave; empty where it may. *torn*: a value is cut at its end."""
        if hidden is None:
            return "the texts and their pseudonyms cannot be told apart"
        again = _Scan(self._detectors, tuple(hidden.visible_text()))
        left = [name for name in names if again.any(name)] + again.failed
        if left:
            return f"the detector {left[0]} still finds something between the pseudonyms"
        return "the answer so far ends within a value, which no detector can find" if torn else ""

    def clear(self, assessment: Assessment, location: Location, purpose: Purpose = Purpose.ANSWER) -> Cleared:
        """Seal the request, in the form for *location*.

        Raises:
            PrivacyViolation: the assessment does not allow it; nothing was made.
        """
        allowed = assessment.allowed if purpose is Purpose.ANSWER else assessment.keepable
        if location not in allowed:
            raise PrivacyViolation(f"the request's tags do not allow {location.value}", location=location.value)
        return _make_cleared(assessment.form(location), location, purpose)

    def restore(
        self, assessment: Assessment, location: Location, chunks: AsyncGenerator[Chunk, None]
    ) -> AsyncGenerator[Chunk, None]:
        """The answer from *location* with the values back in place of their pseudonyms."""
        if assessment.lease is None or assessment.form(location) is assessment.request:
            return chunks
        one = restorer(assessment.lease.table, json=assessment.request.output_schema is not None)
        one.behind(assessment.form(location).answer_prefix)
        return restored(chunks, one)

    def release(self, assessment: Assessment) -> None:
        """The request is over: pseudonyms that belong to no session are wiped."""
        if assessment.lease is not None:
            assessment.lease.close()

    def forget(self, session_id: str, tenant: str | None = None) -> None:
        """The session is over: its pseudonyms are wiped."""
        self._sessions.forget(session_id, tenant=tenant)

    def close(self) -> None:
        """Wipe every table."""
        self._sessions.close()


class _Scan:
    """The texts of one request under the detectors; each runs once, when it is first asked for."""

    def __init__(self, detectors: Mapping[str, Detector], texts: tuple[str, ...]) -> None:
        self._detectors = detectors
        self._found: dict[str, _Findings] = {}
        self.texts = texts
        self._prepared: list[Prepared] | None = None
        self.failed: list[str] = []

    def any(self, name: str) -> bool:
        """Whether detector *name* finds something; one that raises is noted in *failed* and finds nothing."""
        return any(self._findings(name))

    def sees(self, rule: TagRule) -> bool:
        """Whether one of the tag's detectors finds something."""
        return any(self.any(name) for name in rule.detect)

    def merged(self, names: Iterable[str]) -> _Findings:
        """What all of *names* found, text by text."""
        columns = [self._findings(name) for name in names] or [[() for _ in self.texts]]
        return [tuple(finding for part in parts for finding in part) for parts in zip(*columns, strict=True)]

    def _findings(self, name: str) -> _Findings:
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._run(name)
        return found

    def _run(self, name: str) -> _Findings:
        detector = self._detectors.get(name)
        if detector is None:
            raise ConfigError(f"the policy detects {name!r}, and no such detector is registered")
        try:
            if self._prepared is None:  # their encodings are undone once for all detectors
                self._prepared = [Prepared(text) for text in self.texts]
            return [_inside(name, each.text, find_with(detector, each)) for each in self._prepared]
        except Exception as error:  # noqa: BLE001  # whatever a detector does wrong, the request stays here
            _log.warning("detector %s failed with %s: the request stays on the device", name, type(error).__name__)
            self.failed.append(name)
            return [() for _ in self.texts]


def _inside(name: str, text: str, found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    if not found:
        return ()
    if not all(0 <= finding.start < finding.end <= len(text) for finding in found):
        raise ValueError("a finding is not inside its text")
    if not all(finding.kind == name or _is_kind(finding, text) for finding in found):
        raise ValueError("a kind is not a name, or is a piece of the text")
    return found


def _is_kind(finding: Finding, text: str) -> bool:
    """Whether the kind may show in a pseudonym: a name, and not what the text says there."""
    kind = finding.kind
    return kind.isidentifier() and kind.casefold() not in text[finding.start : finding.end].casefold()


def _replaced(request: Request, texts: tuple[str, ...], found: _Findings, lease: Lease) -> Request | None:
    """The request with pseudonyms; None where no names can be found for it."""
    try:
        return request.with_texts(lease.table.replace_all(texts, found))
    except PrivacyViolation:
        return None


def _failed(judged: Assessment, scan: _Scan) -> Assessment:
    return _kept_here(judged, f"the detector {scan.failed[0]} failed: the request stays on the device")


def _kept_here(judged: Assessment, why: str) -> Assessment:
    barred = dict.fromkeys(judged.allowed - _DEVICE, why)
    return replace(judged, allowed=judged.allowed & _DEVICE, keepable=judged.keepable & _DEVICE, barred=barred)
