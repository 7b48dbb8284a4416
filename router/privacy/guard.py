"""The privacy guard: tags each request, decides where it may go and with which texts, and alone issues clearances.

It filters and never weighs. Whatever is uncertain keeps the request on the device: a detector that fails; a declared
tag that requires pseudonyms where no detector finds anything to replace, or none of the tag's finds names; a
pseudonymised request in which a detector still finds something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from hybrid_llm.core import looks
from hybrid_llm.core.clearance import Cleared, Purpose, _make_cleared
from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.request import Location, PartialAnswer, Request
from hybrid_llm.policies import Policy, TagRule
from hybrid_llm.router.privacy.detectors import DETECTORS, Detector
from hybrid_llm.router.privacy.pseudonyms.table import counted
from hybrid_llm.router.privacy.restore import AnswerRestorer
from hybrid_llm.router.privacy.scan import Findings, Scan
from hybrid_llm.router.privacy.sessions import Lease, Sessions

_DEVICE: Final = frozenset({Location.EDGE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the guard decided about one request."""

    request: Request
    """The request with its effective tags, its texts as the app wrote them."""
    allowed: frozenset[Location]
    """Where the request may go."""
    declared: frozenset[str] = frozenset()
    """The tags that the app set; detectors set the others."""
    sealed: bool = False
    """Whether a tag lets it go to the cloud only sealed."""
    shared: frozenset[str] = frozenset()
    """The tags whose names a node may know."""
    cacheable: frozenset[Location] = frozenset()
    """Where an answer to it may be cached."""
    blocked: Mapping[Location, str] = field(default_factory=dict)
    """Locations that the tags allow and the guard does not, each with the reason, for people."""
    pseudonymised: Request | None = field(default=None, repr=False)
    """The request with pseudonyms, for the cloud; None where the cloud may see the texts as they are."""
    replaced: Mapping[str, int] = field(default_factory=dict)
    """Type of pseudonym -> how many different ones the cloud sees."""
    lease: Lease | None = None
    """Keeps the values behind the pseudonyms until the request is over."""

    def request_for(self, location: Location) -> Request:
        """The request as *location* may see it."""
        return self.request if location is Location.EDGE or self.pseudonymised is None else self.pseudonymised


class PrivacyGuard:
    """Tags requests by policy and detectors, and clears them for the locations that all of their tags allow."""

    def __init__(self, detectors: Iterable[Detector] = (), *, sessions: Sessions | None = None) -> None:
        self._detectors: Mapping[str, Detector] = {**DETECTORS, **{d.name: d for d in detectors}}
        self._find_names = frozenset(n for n, d in self._detectors.items() if getattr(d, "finds_names", False) is True)
        self._sessions = sessions if sessions is not None else Sessions()  # not `or`: empty sessions are falsy

    @property
    def detector_names(self) -> frozenset[str]:
        """What a policy may name under `detect`."""
        return frozenset(self._detectors)

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
            DeadlineExceeded: the deadline of the request passed meanwhile.
        """
        policy.allowed(request.privacy)  # rejects an undeclared tag before anything is scanned
        scan = Scan(self._detectors, request)
        looking = looks.begin(request.check_deadline)
        try:
            seen = {tag for tag, rule in policy.tags.items() if tag not in request.privacy and scan.sees(rule)}
            tags = request.privacy | seen
            allowed, cacheable = policy.allowed(tags), policy.cacheable(tags)
            tagged = request if tags == request.privacy else replace(request, privacy=tags)
            declared = request.privacy if continues is None else continues.declared
            shared = frozenset(tag for tag in tags if policy.tags[tag].share_name)
            judged = Assessment(
                request=tagged,
                allowed=allowed,
                cacheable=cacheable,
                declared=declared,
                sealed=bool(policy.sealing(tags)),
                shared=shared,
            )
            if Location.CLOUD not in allowed:
                return judged
            replacing = sorted(tag for tag in tags if policy.tags[tag].pseudonymise)
            held = continues.lease.shared() if continues is not None and continues.lease is not None else None
            return self._replace(judged, policy, replacing, scan, held)
        finally:
            looks.end(looking)

    def assess_continuation(self, known: Assessment, given: PartialAnswer, policy: Policy) -> Assessment:
        """Assess a request together with its partial answer, which may hold values that the request did not."""
        return self.assess(known.request.continue_from(given), policy, continues=known)

    def _replace(
        self, judged: Assessment, policy: Policy, replacing: list[str], scan: Scan, held: Lease | None
    ) -> Assessment:
        """Replace what the detectors of the tags *replacing* find, and the values that the session already knows.

        A request without findings may hold a known value: it came back in an answer, in which no detector finds it.
        """
        names = sorted({name for tag in replacing for name in policy.tags[tag].detect})
        found = scan.merged(names)
        if scan.failed:  # now, or when the tags were detected
            return _failed(judged, scan)
        unsure = [why for tag in replacing if (why := self._unsure(tag, policy.tags[tag], judged, scan))]
        if unsure:
            return _keep_local(judged, unsure[0])
        try:
            lease = held or (self._open(judged.request) if replacing else self._resume(judged.request))
        except PrivacyViolation as error:
            return _keep_local(judged, str(error))
        if lease is None:
            return judged
        try:
            return self._checked(judged, scan, found, names, lease)
        except BaseException:
            lease.close()
            raise

    def _unsure(self, tag: str, rule: TagRule, judged: Assessment, scan: Scan) -> str:
        """Why what *tag* stands for may be in the texts although nothing is left of what its detectors find."""
        if not scan.sees(rule):
            return f"tag {tag} was declared, and no detector finds what to replace"
        if tag not in judged.declared or rule.accept_undetected_names or self._find_names.intersection(rule.detect):
            return ""
        return (
            f"tag {tag} was declared, and none of its detectors finds names of people: add one that does to `detect`, "
            "or set `accept_undetected_names: true`"
        )

    def _open(self, request: Request) -> Lease:
        return self._sessions.open(request.session_id, tenant=request.tenant)

    def _resume(self, request: Request) -> Lease | None:
        if request.session_id is None:
            return None
        return self._sessions.resume(request.session_id, tenant=request.tenant)

    def _checked(self, judged: Assessment, scan: Scan, found: Findings, names: list[str], lease: Lease) -> Assessment:
        """Replace, and scan the request with its pseudonyms once more: any doubt keeps it on the device."""
        used: set[str] = set()
        try:
            replaced = judged.request.with_texts(_replaced(scan, found, lease, used))
            why = self._doubt(replaced, names, lease, judged.request)
        except PrivacyViolation as error:
            replaced, why = judged.request, str(error)
        if why or replaced == judged.request:
            lease.close()
            return _keep_local(judged, why) if why else judged
        kept = judged.cacheable & _DEVICE
        return replace(judged, pseudonymised=replaced, replaced=counted(used), lease=lease, cacheable=kept)

    def _doubt(self, replaced: Request, names: list[str], lease: Lease, request: Request) -> str:
        """Why *replaced* must not leave; empty where it may."""
        again = Scan(self._detectors, replaced, table=lease.table)
        left = [name for name in names if again.finds_beside(name)] + again.failed
        if left:
            return f"the detector {left[0]} still finds something between the pseudonyms"
        cut = lease.table.begins_value(_end(request))
        return "the partial answer ends within a value, which no detector can find" if cut else ""

    def clear(self, assessment: Assessment, location: Location, purpose: Purpose = Purpose.ANSWER) -> Cleared:
        """Issue the clearance for *location* and *purpose*, with the texts and tags that *location* may see.

        Raises:
            PrivacyViolation: the assessment does not allow it.
        """
        allowed = assessment.allowed if purpose is Purpose.ANSWER else assessment.cacheable
        if location not in allowed:
            raise PrivacyViolation(f"the request's tags do not allow {location.value}", location=location.value)
        request = assessment.request_for(location)
        if location is Location.CLOUD and not request.privacy <= assessment.shared:
            request = replace(request, privacy=request.privacy & assessment.shared)
        sealed = assessment.sealed and location is not Location.EDGE and purpose is Purpose.ANSWER
        return _make_cleared(request, location, purpose, sealed=sealed)

    def restorer(self, assessment: Assessment, location: Location) -> AnswerRestorer | None:
        """A restorer for the answer from *location*; None if the request was sent without pseudonyms."""
        if assessment.lease is None or assessment.request_for(location) is assessment.request:
            return None
        return AnswerRestorer(assessment.lease.table, assessment.request_for(location))

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


def _end(request: Request) -> str:
    """What the partial answer of *request* ends with: its last tool call, else its text, else its reasoning."""
    if request.answer_calls:
        return request.answer_calls[-1].arguments
    return request.answer_prefix or request.answer_reasoning


def _replaced(scan: Scan, found: Findings, lease: Lease, used: set[str]) -> list[str]:
    """The texts with pseudonyms, which *used* gets.

    Raises:
        PrivacyViolation: no unambiguous pseudonyms exist for them, or a text would not be valid with one.
    """
    texts = scan.structures
    clipped = [text.clipped(each) for text, each in zip(texts, found, strict=True)]
    written = lease.table.replace_all(scan.open_forms(), clipped, used=used, kept=[text.kept for text in texts])
    return [text.rewritten(new, lease.table) for text, new in zip(texts, written, strict=True)]


def _failed(judged: Assessment, scan: Scan) -> Assessment:
    return _keep_local(judged, f"the detector {scan.failed[0]} failed: the request stays on the device")


def _keep_local(judged: Assessment, why: str) -> Assessment:
    blocked = dict.fromkeys(judged.allowed - _DEVICE, why)
    return replace(judged, allowed=judged.allowed & _DEVICE, cacheable=judged.cacheable & _DEVICE, blocked=blocked)
