"""What the guard cannot be sure of stays on the device, and nothing else does."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.core.clearance import require_clearance
from hybrid_llm.core.errors import ConfigError, DeadlineExceeded, PolicyError
from hybrid_llm.core.limits import SessionLimits
from hybrid_llm.core.request import Location, Message, PartialAnswer, Request, Tool
from hybrid_llm.policies import Policy, builtin_names, builtin_policy, parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import parse_config
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.privacy.detectors import DETECTORS, Finding
from hybrid_llm.router.privacy.sessions import Lease, Sessions
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

MAIL, SSN = "jane.doe@example.org", "078-05-1120"


def policy(**keys: Any) -> Policy:
    tag = {"allow": ["edge", "cloud"], "to_cloud": "pseudonymise", "detect": ["email", "names"], **keys}
    text = f"version: 1\nname: p\ntags:\n  pii: {json.dumps(tag)}\n  free: {{allow: [edge, cloud]}}\n"
    return parse_policy(text, detectors=frozenset({*DETECTORS, "names"}))


def request(text: str = "words", **options: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **options)


def seen(assessment: Assessment) -> str:
    return "\n".join(assessment.request_for(Location.CLOUD).visible_text())


class Names:
    """A model for names: it takes John and Jane for people, and every word with an underscore."""

    name = "names"
    finds_names = True

    def __init__(self, pattern: str = r"[A-Za-z]+_[A-Z0-9]+|\b(?:John|Jane)\b") -> None:
        self._pattern = re.compile(pattern)

    def find(self, text: str) -> Iterator[Finding]:
        yield from (Finding(kind="person_name", start=m.start(), end=m.end()) for m in self._pattern.finditer(text))


@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Z]+_[A-Z0-9]{5}",
        r"[ (]*[A-Z]+_[A-Z0-9]{5}[.,)]*",
        r"[A-Z]+_[A-Z0-9]{5}'s\b",
        r"(?<=_)[A-Z0-9]{3}",
        r"[A-Z]+_[A-Z0-9]{2}",
        r"[A-Z]+_[A-Z0-9]{5}, [A-Z]+_[A-Z0-9]{5}",
    ],
)
def test_the_second_look_skips_the_pseudonyms_that_the_guard_put_in_itself(pattern):
    text = f"({MAIL}), {MAIL.upper()}, {MAIL}'s"
    assessment = PrivacyGuard([Names(pattern)]).assess(request(text), policy())
    assert Location.CLOUD in assessment.allowed
    assert "@" not in seen(assessment)


def test_it_skips_them_in_json_too():
    text = json.dumps({"to": f"{MAIL}\n", "from": MAIL, "n": 1})
    assessment = PrivacyGuard([Names(r"[A-Z]+_[A-Z0-9]{5}(?:\\n)?")]).assess(request(text), policy())
    assert Location.CLOUD in assessment.allowed


@pytest.mark.parametrize(
    "pattern",
    [
        r"Peter [A-Z]+_[A-Z0-9]{5}",
        r"[A-Z]+_[A-Z0-9]{5} Peter",
        r"[A-Z]+_[A-Z0-9]{5} and 7",
        r"[A-Z]+_[A-Z0-9]{5}, s",
        r"'s [A-Z]+_[A-Z0-9]{5}",
        r"Peter(?=.*_)",
        r"日本(?=.*_)",
        r"(?<=[A-Z2-7]{5}), (?=s)",
    ],
)
def test_a_finding_with_anything_beside_a_pseudonym_keeps_the_request_on_the_device(pattern):
    text = f"Peter {MAIL} Peter, {MAIL} and 7, 's {MAIL}, so, 日本 {MAIL}"
    assessment = PrivacyGuard([Names(pattern)]).assess(request(text), policy())
    assert assessment.allowed == {Location.EDGE}
    assert "names still finds something" in assessment.blocked[Location.CLOUD]


def test_what_reads_as_a_pseudonym_and_is_none_is_not_skipped():
    text = f"I am EMAIL_ABCDE. Write to {MAIL}."

    class Late(Names):
        def find(self, text: str) -> Iterator[Finding]:
            return super().find(text) if MAIL not in text else iter(())

    assessment = PrivacyGuard([Late(r"EMAIL_ABCDE")]).assess(request(text), policy())
    assert assessment.allowed == {Location.EDGE}


def test_a_name_beside_an_address_is_replaced_with_it():
    assessment = PrivacyGuard([Names()]).assess(request(f"John {MAIL} writes"), policy())
    assert re.fullmatch(r"PERSONNAME_\w{5} EMAIL_\w{5} writes", seen(assessment))


NO_NAMES = {"detect": ["email"]}


def test_a_declared_tag_whose_detectors_find_no_names_keeps_the_request_on_the_device():
    text = f"My sister has HIV. Reply to {MAIL}."
    assessment = PrivacyGuard().assess(request(text, privacy=frozenset({"pii"})), policy(**NO_NAMES))
    assert assessment.allowed == {Location.EDGE}
    assert "accept_undetected_names: true" in assessment.blocked[Location.CLOUD]
    assert assessment.lease is None


@pytest.mark.parametrize(
    ("keys", "declared"),
    [(NO_NAMES, frozenset()), ({**NO_NAMES, "accept_undetected_names": True}, {"pii"}), ({}, {"pii"})],
)
def test_a_detected_tag_an_accepting_policy_and_a_model_for_names_let_it_leave(keys, declared):
    asked = request(f"Reply to {MAIL}.", privacy=frozenset(declared))
    assessment = PrivacyGuard([Names()]).assess(asked, policy(**keys))
    assert re.fullmatch(r"Reply to EMAIL_\w{5}\.", seen(assessment))


def test_a_policy_that_accepts_it_still_needs_something_to_replace():
    asked = request("Reply to Jane.", privacy=frozenset({"pii"}))
    assessment = PrivacyGuard().assess(asked, policy(**NO_NAMES, accept_undetected_names=True))
    assert assessment.allowed == {Location.EDGE}


@pytest.mark.parametrize("finds_names", [False, None, 1, "yes"])
def test_only_a_detector_that_says_so_finds_names(finds_names):
    detector = Names()
    detector.finds_names = finds_names  # type: ignore[assignment]
    assessment = PrivacyGuard([detector]).assess(request(MAIL, privacy=frozenset({"pii"})), policy())
    assert assessment.allowed == {Location.EDGE}


def test_a_tag_that_was_detected_is_not_declared_by_the_continuation_of_its_answer():
    guard = PrivacyGuard()
    known = guard.assess(request(f"Reply to {MAIL}."), policy(**NO_NAMES))
    more = guard.assess_continuation(known, PartialAnswer(text="Dear ", tokens=1), policy(**NO_NAMES))
    assert Location.CLOUD in more.allowed
    again = guard.assess_continuation(more, PartialAnswer(text="Dear Sir ", tokens=1), policy(**NO_NAMES))
    assert Location.CLOUD in again.allowed


@pytest.mark.parametrize("name", builtin_names())
def test_no_built_in_policy_sends_a_request_that_declares_personal_data_without_a_model_for_names(name):
    asked = request(f"My sister has HIV. Reply to {MAIL}.", privacy=frozenset({"pii"}))
    assert PrivacyGuard().assess(asked, builtin_policy(name)).allowed == {Location.EDGE}


@pytest.mark.parametrize(
    ("tag", "what"),
    [
        ("{allow: [edge], accept_undetected_names: true}", "only beside `to_cloud: pseudonymise`"),
        ("{allow: [edge], share_name: true}", "never goes to the cloud"),
        ("{allow: [edge, cloud], share_name: yes}", "share_name"),
    ],
)
def test_a_key_of_a_tag_without_effect_is_an_error(tag, what):
    with pytest.raises(PolicyError, match=what):
        parse_policy(f"version: 1\nname: p\ntags:\n  pii: {tag}\n")


@pytest.mark.parametrize(("keys", "names"), [({}, frozenset()), ({"share_name": True}, {"pii"})])
def test_a_node_learns_the_name_of_a_tag_only_if_the_policy_says_so(keys, names):
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    text = (
        "version: 1\nname: p\nrules: [{prefer: [cloud]}]\n"
        + f"tags: {{pii: {json.dumps({'allow': ['edge', 'cloud'], **keys})}}}\n"
    )
    with HybridLLM([edge, cloud], parse_policy(text), sensors=FixedSensors()) as client:
        reply = client.generate("words", privacy={"pii"})
    assert reply.decision.tags == {"pii"}, "the app's own records have it"
    assert [one.privacy for one in cloud.requests] == [names]


def test_a_backend_on_the_device_gets_every_tag():
    guard, rules = PrivacyGuard([Names()]), policy()
    assessment = guard.assess(request(privacy=frozenset({"free"})), rules)
    assert require_clearance(guard.clear(assessment, Location.EDGE), Location.EDGE).privacy == {"free"}
    assert require_clearance(guard.clear(assessment, Location.CLOUD), Location.CLOUD).privacy == frozenset()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def turn(guard: PrivacyGuard, text: str, session: str = "s", tenant: str | None = None) -> Assessment:
    assessment = guard.assess(request(text, session_id=session, tenant=tenant), policy(**NO_NAMES))
    guard.release(assessment)
    return assessment


def by_idle_time(guard: PrivacyGuard, clock: Clock) -> None:
    clock.now += 10.0
    turn(guard, "b@example.org", "other")


def by_capacity(guard: PrivacyGuard, clock: Clock) -> None:
    for number in range(2):
        turn(guard, f"{number}@example.org", f"other {number}")


DROPS = pytest.mark.parametrize("drop", [by_idle_time, by_capacity])


def limited() -> tuple[PrivacyGuard, Clock]:
    clock = Clock()
    return PrivacyGuard(sessions=Sessions(capacity=2, idle_s=10.0, clock=clock)), clock


@DROPS
@pytest.mark.parametrize("text", ["so 1120 it is", "and a@example.org?"])
def test_a_session_that_was_dropped_early_stays_on_the_device(drop, text):
    guard, clock = limited()
    turn(guard, MAIL)
    drop(guard, clock)
    for _ in range(2):
        assessment = turn(guard, text)
        assert assessment.allowed == {Location.EDGE}
        assert "dropped at a limit (2 sessions, 10 s" in assessment.blocked[Location.CLOUD]
    assert Location.CLOUD in turn(guard, text, tenant="another").allowed
    assert Location.CLOUD in turn(guard, text, "new").allowed


@DROPS
def test_a_session_that_the_app_forgets_after_it_was_dropped_begins_anew(drop):
    guard, clock = limited()
    turn(guard, MAIL)
    drop(guard, clock)
    guard.forget("s")
    assert Location.CLOUD in turn(guard, "words").allowed


@DROPS
def test_a_session_without_values_may_be_dropped(drop):
    guard, clock = limited()
    sessions = Sessions(capacity=1)
    sessions.open("s").close()
    sessions.open("t").close()
    assert isinstance(sessions.open("s"), Lease)
    turn(guard, "words")
    drop(guard, clock)
    assert Location.CLOUD in turn(guard, "words").allowed


def test_a_session_that_is_dropped_while_a_request_uses_it_is_remembered():
    sessions = Sessions(capacity=1)
    lease = sessions.open("s")
    sessions.open("t").close()
    lease.close()
    guard = PrivacyGuard(sessions=sessions)
    assert turn(guard, "words").allowed == {Location.EDGE}


def test_dropped_sessions_are_remembered_in_bounded_memory():
    sessions = Sessions(capacity=1)
    for number in range(66_000):
        sessions.open(str(number))
    assert len(sessions._dropped) == 65_536  # no public face shows it


def test_the_limits_of_sessions_are_configured():
    edge = "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n"
    config = parse_config(edge + "sessions: {capacity: 20000, idle: 8h}\n", Path("hybrid.yaml"))
    assert config.sessions == SessionLimits(capacity=20_000, idle_s=28_800.0)
    for wrong in ({"capacity": 0}, {"capacity": 1.5}, {"idle_s": 0.0}, {"idle_s": float("nan")}):
        with pytest.raises(ConfigError):
            SessionLimits(**wrong)


def test_a_client_keeps_to_the_limits_of_its_sessions():
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    rules = parse_policy(
        "version: 1\nname: p\nrules: [{prefer: [cloud]}]\n"
        "tags: {pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}}\n"
    )
    limits = SessionLimits(capacity=1)
    with HybridLLM([edge, cloud], rules, sensors=FixedSensors(), sessions=limits) as client:
        backends = [client.generate(MAIL, session_id=name).backend for name in ("a", "b", "a")]
        client.forget("a")
        assert [*backends, client.generate(MAIL, session_id="a").backend] == ["cloud", "cloud", "edge", "cloud"]


class Panic(BaseException):
    """As a panic in an extension written in Rust."""


def raising(error: BaseException) -> Callable[[str], Iterator[Finding]]:
    def find(text: str) -> Iterator[Finding]:
        raise error

    return find


def half_way(error: BaseException) -> Callable[[str], Iterator[Finding]]:
    def find(text: str) -> Iterator[Finding]:
        yield Finding(kind="email", start=0, end=1)
        raise error

    return find


class Bare:
    kind = "email"


def giving(*findings: Any) -> Callable[[str], Iterator[Finding]]:
    return lambda text: iter(findings)


@pytest.mark.parametrize(
    "find",
    [
        giving(Finding(kind="email", start=0.0, end=5.0)),  # type: ignore[arg-type]
        giving(Finding(kind="names", start=0.0, end=5)),  # type: ignore[arg-type]
        giving(Finding(kind="names", start=0, end=5.0)),  # type: ignore[arg-type]
        giving(Finding(kind="email", start=0, end=float("nan"))),  # type: ignore[arg-type]
        giving(Finding(kind="email", start="0", end="5")),  # type: ignore[arg-type]
        giving(Finding(kind=None, start=0, end=5)),  # type: ignore[arg-type]
        giving(Finding(kind=7, start=0, end=5)),  # type: ignore[arg-type]
        giving(None),
        giving("SECRET"),
        giving({"start": 0, "end": 5}),
        giving(Bare()),
        lambda text: None,
        lambda text: 7,
        raising(StopIteration("SECRET")),
        raising(GeneratorExit("SECRET")),
        raising(Panic("SECRET")),
        raising(RecursionError("SECRET")),
        raising(MemoryError("SECRET")),
        raising(DeadlineExceeded("SECRET", backend="", elapsed=0.0)),
        half_way(ValueError("SECRET")),
        half_way(StopIteration("SECRET")),
        half_way(Panic("SECRET")),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_detector_that_gives_nonsense_or_raises_anything_keeps_the_request_on_the_device(find, late, caplog):
    class Wrong:
        name = "names"

        def find(self, text: str) -> Any:
            return find(text) if "_" in text or not late else iter(())

    leases: list[Lease] = []

    class Watched(Sessions):
        def open(self, session_id: str | None, *, tenant: str | None = None) -> Lease:
            leases.append(super().open(session_id, tenant=tenant))
            return leases[-1]

    with caplog.at_level(logging.DEBUG):
        assessment = PrivacyGuard([Wrong()], sessions=Watched()).assess(request(f"SECRET {MAIL}"), policy())
    assert assessment.allowed == assessment.cacheable == {Location.EDGE}
    assert "names" in assessment.blocked[Location.CLOUD]
    assert "SECRET" not in caplog.text + assessment.blocked[Location.CLOUD]
    assert len(leases) == late
    for lease in leases:
        with pytest.raises(Exception, match="wiped"):
            lease.table.check()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_user_who_stops_the_program_stops_it(error):
    class Stopping(Names):
        def find(self, text: str) -> Iterator[Finding]:
            raise error

    with pytest.raises(error):
        PrivacyGuard([Stopping()]).assess(request(), policy())


class Slow(Names):
    """Finds nothing; the deadline passes during its call number *at*."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.calls, self._at = 0, at

    def find(self, text: str) -> Iterator[Finding]:
        self.calls += 1
        if self.calls == self._at:
            time.sleep(0.21)
        return iter(())


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_deadline_that_passes_during_a_scan_ends_the_request_and_wipes_its_pseudonyms(at):
    tables: list[Lease] = []

    class Watched(Sessions):
        def open(self, session_id: str | None, *, tenant: str | None = None) -> Lease:
            tables.append(super().open(session_id, tenant=tenant))
            return tables[-1]

    slow = Slow(at)
    asked = Request(messages=tuple(Message(role="user", content=MAIL) for _ in range(3)), deadline=0.2)
    with pytest.raises(DeadlineExceeded):
        PrivacyGuard([slow], sessions=Watched()).assess(asked, policy())
    assert slow.calls <= max(3, at)
    for lease in tables:
        with pytest.raises(Exception, match="wiped"):
            lease.table.check()


def test_a_request_that_is_over_before_its_scan_is_not_scanned():
    slow = Slow(0)
    with pytest.raises(DeadlineExceeded):
        PrivacyGuard([slow]).assess(request(deadline=1.0, created=time.monotonic() - 2.0), policy())
    assert not slow.calls


def test_the_texts_of_a_tool_are_looked_at_twice():
    class Late(Names):
        def find(self, text: str) -> Iterator[Finding]:
            return iter([Finding(kind="names", start=11, end=15)] if text == '{"title": "last"}' else [])

    class Second(Late):
        seen = 0

        def find(self, text: str) -> Iterator[Finding]:
            self.seen += text == '{"title": "last"}'
            return super().find(text) if self.seen > 1 else iter(())

    asked = request(MAIL, tools=(Tool(name="f", parameters='{"title": "last"}'),))
    assert PrivacyGuard([Second()]).assess(asked, policy()).allowed == {Location.EDGE}
