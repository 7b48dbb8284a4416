"""The privacy guard: tags each request, decides where it may go and with which texts, and alone issues clearances.

It filters and never weighs. Whatever is uncertain keeps the request on the device: a detector that raises, a tag that
requires pseudonyms where no detector finds anything to replace, a pseudonymised request in which a detector still finds
something.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from hybrid_llm.core.clearance import Cleared, Purpose, _make_cleared
from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.core.request import Location, PartialAnswer, Request
from hybrid_llm.policies import Policy, TagRule
from hybrid_llm.router.privacy.detectors import DETECTORS, Detector, Finding, Prepared, find_with, prepare
from hybrid_llm.router.privacy.restore import Restorer
from hybrid_llm.router.privacy.sessions import Lease, Sessions

_log = logging.getLogger("hybrid_llm.privacy")
_DEVICE: Final = frozenset({Location.EDGE})
_CLOSED: Final = "the client is closed and its pseudonyms are wiped"
_Findings = list[tuple[Finding, ...]]
"""The findings in each text of `Request.visible_text`, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the guard decided about one request."""

    request: Request
    """The request with its effective tags, its texts as the app wrote them."""
    allowed: frozenset[Location]
    """Where the request may go."""
    cacheable: frozenset[Location] = frozenset()
    """Where an answer to it may be cached."""
    blocked: Mapping[Location, str] = field(default_factory=dict)
    """Locations that the tags allow and the guard does not, each with the reason, for people."""
    pseudonymised: Request | None = field(default=None, repr=False)
    """The request with pseudonyms, for the cloud; None where the cloud may see the texts as they are."""
    lease: Lease | None = None
    """Keeps the values behind the pseudonyms until the request is over."""

    def request_for(self, location: Location) -> Request:
        """The request as *location* may see it."""
        return self.request if location is Location.EDGE or self.pseudonymised is None else self.pseudonymised


class PrivacyGuard:
    """Tags requests by policy and detectors, and clears them for the locations that all of their tags allow."""

    def __init__(self, detectors: Iterable[Detector] = (), *, sessions: Sessions | None = None) -> None:
        self._detectors: Mapping[str, Detector] = {**DETECTORS, **{d.name: d for d in detectors}}
        self._sessions = sessions if sessions is not None else Sessions()  # not `or`: empty sessions are falsy

    def assess(self, request: Request, policy: Policy, *, continues: Assessment | None = None) -> Assessment:
        """Find the effective tags, declared and detected, and what they allow.

        Args:
            request: The request as the app wrote it.
            policy: The policy whose tags apply.
            continues: The assessment of the request whose answer this one continues. Its pseudonyms are used again,
                even if the session was forgotten or the client closed in the meantime.

        Raises:
            InvalidRequest: the policy does not declare a tag of the request.
            ConfigError: the policy names a detector that is not registered.
        """
        policy.allowed(request.privacy)  # rejects an undeclared tag before anything is scanned
        scan = _Scan(self._detectors, tuple(request.visible_text()))
        more = (tag for tag in policy.tags if tag not in request.privacy)
        tags = request.privacy | {tag for tag in more if scan.sees(policy.tags[tag])}
        allowed, cacheable = policy.allowed(tags), policy.cacheable(tags)
        tagged = request if tags == request.privacy else replace(request, privacy=tags)
        judged = Assessment(request=tagged, allowed=allowed, cacheable=cacheable)
        if Location.CLOUD not in allowed:
            return judged
        replacing = sorted(tag for tag in tags if policy.tags[tag].pseudonymise)
        held = continues.lease.shared() if continues is not None and continues.lease is not None else None
        return self._replace(judged, policy, replacing, scan, held)

    def assess_continuation(self, known: Assessment, given: PartialAnswer, policy: Policy) -> Assessment:
        """Assess a request together with its partial answer, which may hold values that the request did not."""
        return self.assess(known.request.continue_from(given), policy, continues=known)

    def _replace(
        self, judged: Assessment, policy: Policy, replacing: list[str], scan: _Scan, held: Lease | None
    ) -> Assessment:
        """Replace what the detectors of the tags *replacing* find, and the values that the session already knows.

        A request without findings may hold a known value: it came back in an answer, in which no detector finds it.
        """
        names = sorted({name for tag in replacing for name in policy.tags[tag].detect})
        found = scan.merged(names)
        if scan.failed:  # now, or when the tags were detected
            return _failed(judged, scan)
        for tag in replacing:
            if not scan.sees(policy.tags[tag]):
                return _keep_local(judged, f"tag {tag} was declared, and no detector finds what to replace")
        try:
            lease = held or (self._open(judged.request) if replacing else self._resume(judged.request))
        except PrivacyViolation:
            return _keep_local(judged, _CLOSED)
        if lease is None:
            return judged
        return self._checked(judged, _replaced(judged.request, scan, found, lease), names, lease)

    def _open(self, request: Request) -> Lease:
        return self._sessions.open(request.session_id, tenant=request.tenant)

    def _resume(self, request: Request) -> Lease | None:
        if request.session_id is None:
            return None
        return self._sessions.resume(request.session_id, tenant=request.tenant)

    def _checked(self, judged: Assessment, replaced: Request | None, names: list[str], lease: Lease) -> Assessment:
        """Scan the request with its pseudonyms once more: any doubt keeps it on the device."""
        why = self._doubt(replaced, names, lease.table.begins_value(judged.request.answer_prefix))
        if replaced is None or why:
            lease.close()
            return _keep_local(judged, why)
        if replaced == judged.request:
            lease.close()
            return judged
        return replace(judged, pseudonymised=replaced, lease=lease, cacheable=judged.cacheable & _DEVICE)

    def _doubt(self, replaced: Request | None, names: list[str], cut: bool) -> str:  # noqa: FBT001
        """Why *replaced* must not leave; empty where it may. *cut*: the partial answer ends within a value."""
        if replaced is None:
            return "the texts and their pseudonyms cannot be told apart"
        again = _Scan(self._detectors, tuple(replaced.visible_text()))
        left = [name for name in names if again.any(name)] + again.failed
        if left:
            return f"the detector {left[0]} still finds something between the pseudonyms"
        return "the partial answer ends within a value, which no detector can find" if cut else ""

    def clear(self, assessment: Assessment, location: Location, purpose: Purpose = Purpose.ANSWER) -> Cleared:
        """Issue the clearance for *location* and *purpose*, with the texts that *location* may see.

        Raises:
            PrivacyViolation: the assessment does not allow it.
        """
        allowed = assessment.allowed if purpose is Purpose.ANSWER else assessment.cacheable
        if location not in allowed:
            raise PrivacyViolation(f"the request's tags do not allow {location.value}", location=location.value)
        return _make_cleared(assessment.request_for(location), location, purpose)

    def restorer(self, assessment: Assessment, location: Location) -> Restorer | None:
        """A restorer for the answer from *location*; None if the request was sent without pseudonyms."""
        if assessment.lease is None or assessment.request_for(location) is assessment.request:
            return None
        one = Restorer(assessment.lease.table, json=assessment.request.output_schema is not None)
        one.continue_from(assessment.request_for(location).answer_prefix)
        return one

    def release(self, assessment: Assessment) -> None:
        """Wipe the pseudonyms of a request that is over, unless they belong to a session."""
        if assessment.lease is not None:
            assessment.lease.close()

    def forget(self, session_id: str, tenant: str | None = None) -> None:
        """Wipe the pseudonyms of a session that is over."""
        self._sessions.forget(session_id, tenant=tenant)

    def close(self) -> None:
        """Wipe every pseudonym."""
        self._sessions.close()


class _Scan:
    """The texts of one request under the detectors, each of which runs once, when its result is first needed."""

    def __init__(self, detectors: Mapping[str, Detector], texts: tuple[str, ...]) -> None:
        self._detectors = detectors
        self._found: dict[str, _Findings] = {}
        self.texts = texts
        self.failed: list[str] = []

    @cached_property
    def prepared(self) -> list[Prepared]:
        """The texts with their encodings undone, once for everything that reads them."""
        return prepare(self.texts)

    def any(self, name: str) -> bool:
        """Whether detector *name* finds something; one that raises is added to *failed* and finds nothing."""
        return any(self._findings(name))

    def sees(self, rule: TagRule) -> bool:
        """Whether one of the tag's detectors finds something."""
        return any(self.any(name) for name in rule.detect)

    def merged(self, names: Sequence[str]) -> _Findings:
        """The findings of all of *names*, text by text."""
        if not names:
            return [()] * len(self.texts)
        columns = [self._findings(name) for name in names]
        return [tuple(finding for part in parts for finding in part) for parts in zip(*columns, strict=True)]

    def _findings(self, name: str) -> _Findings:
        if name not in self._found:
            self._found[name] = self._run(name)
        return self._found[name]

    def _run(self, name: str) -> _Findings:
        detector = self._detectors.get(name)
        if detector is None:
            raise ConfigError(f"the policy names the detector {name!r}, which is not registered")
        try:
            return [_checked_findings(name, each.text, find_with(detector, each)) for each in self.prepared]
        except Exception as error:  # noqa: BLE001  # whatever a detector does wrong, the request stays on the device
            _log.warning("detector %s failed with %s: the request stays on the device", name, type(error).__name__)
            self.failed.append(name)
            return [() for _ in self.texts]


def _checked_findings(name: str, text: str, found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    if not found:
        return ()
    if not all(0 <= finding.start < finding.end <= len(text) for finding in found):
        raise ValueError("a finding is not inside its text")
    if not all(finding.kind == name or _is_kind(finding, text) for finding in found):
        raise ValueError("a kind is not a name, or is a piece of the text")
    return found


def _is_kind(finding: Finding, text: str) -> bool:
    """Whether the kind may appear in a pseudonym: an identifier that does not occur in the value itself."""
    kind = finding.kind
    return kind.isidentifier() and kind.casefold() not in text[finding.start : finding.end].casefold()


def _replaced(request: Request, scan: _Scan, found: _Findings, lease: Lease) -> Request | None:
    """The request with pseudonyms; None where no unambiguous pseudonyms exist for its texts."""
    try:
        return request.with_texts(lease.table.replace_all(scan.prepared, found, request.check_deadline))
    except PrivacyViolation:
        return None
    except BaseException:  # such as a deadline that is over
        lease.close()
        raise


def _failed(judged: Assessment, scan: _Scan) -> Assessment:
    return _keep_local(judged, f"the detector {scan.failed[0]} failed: the request stays on the device")


def _keep_local(judged: Assessment, why: str) -> Assessment:
    blocked = dict.fromkeys(judged.allowed - _DEVICE, why)
    return replace(judged, allowed=judged.allowed & _DEVICE, cacheable=judged.cacheable & _DEVICE, blocked=blocked)
