"""Private stays private: properties over generated policies, tags, contents and failures."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.clearance import Clearance, Cleared, require_clearance
from hybrid_llm.core.errors import BackendOverloaded, BackendUnavailable, HybridLLMError, PrivacyViolation
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

RULES = (
    "{prefer: [cloud, edge]}",
    "{prefer: [cloud], when: request.max_tokens > 0}",
    "{exclude: edge, because: x, when: request.prompt_tokens >= 0}",
    "{exclude: edge, because: x, when: '!edge.ready'}",
    "{rank: {latency: 1.0, cost: 1.0}}",
)


def failures(name: str) -> list[list[str | Exception]]:
    return [
        ["fine"],
        [BackendUnavailable("down", backend=name)],
        [BackendOverloaded("full", backend=name, retry_after=0.0)],
        ["half", BackendUnavailable("cut", backend=name)],
        [],
    ]


@st.composite
def policies(draw: st.DrawFn) -> str:
    rules = draw(st.lists(st.sampled_from(RULES), max_size=3, unique=True))
    retries = draw(st.integers(0, 2))
    lines = [
        "version: 1",
        "name: p",
        "tags:",
        "  local: {allow: [edge], detect: [email]}",
        "  public: {allow: [edge, cloud]}",
    ]
    lines += ["rules:" if rules else "rules: []", *(f"  - {rule}" for rule in rules)]
    return "\n".join([*lines, f"resilience: {{retries: {retries}}}"])


@settings(deadline=None)
@given(
    text=policies(),
    tags=st.sets(st.sampled_from(["local", "public"])),
    content=st.sampled_from(["plain words", "write to jane.doe@example.org", "日本語 x@example.com"]),
    edge_script=st.sampled_from(range(5)),
    cloud_script=st.sampled_from(range(5)),
    is_async=st.booleans(),
    edge_ready=st.booleans(),
)
def test_a_local_only_request_never_reaches_a_cloud_backend(
    text, tags, content, edge_script, cloud_script, is_async, edge_ready
):
    try:
        policy = parse_policy(text)
    except HybridLLMError:
        return  # a rule that cannot be reached is refused at load; such a policy never decides
    edge = FakeBackend("edge", Location.EDGE, failures("edge")[edge_script], ready=edge_ready)
    cloud = FakeBackend("cloud", Location.CLOUD, failures("cloud")[cloud_script])
    with HybridLLM([edge, cloud], policy, sensors=FixedSensors()) as client:
        try:
            if is_async:
                asyncio.run(client.agenerate(content, privacy=tags, deadline=1.0))
            else:
                client.generate(content, privacy=tags, deadline=1.0)
        except HybridLLMError as error:
            assert content not in str(error)
    local = "local" in tags or "@" in content
    assert not (local and cloud.requests)


def request(text: str = "words", **options) -> Request:
    return Request(messages=(Message(role="user", content=text),), **options)


POLICY = parse_policy(
    "version: 1\nname: p\nrules: []\n"
    "tags:\n  local: {allow: [edge], detect: [email]}\n  public: {allow: [edge, cloud]}\n"
)


def cleared_for(location: Location, text: str = "words") -> Cleared:
    guard = PrivacyGuard()
    return guard.clear(guard.assess(request(text), POLICY), location)


def test_the_guard_clears_only_where_every_tag_allows():
    guard = PrivacyGuard()
    assessment = guard.assess(request(privacy=frozenset({"local", "public"})), POLICY)
    assert assessment.allowed == {Location.EDGE}
    with pytest.raises(PrivacyViolation):
        guard.clear(assessment, Location.CLOUD)
    assert require_clearance(guard.clear(assessment, Location.EDGE), Location.EDGE).privacy == {"local", "public"}


@pytest.mark.parametrize(
    "forge",
    [
        lambda good: good.request,
        lambda good: replace(good, request=replace(good.request, messages=(Message(role="user", content="other"),))),
        lambda good: replace(good, request=replace(good.request, output_schema="{}")),
        lambda good: replace(good, clearance=replace(good.clearance, tags=frozenset({"public"}))),
        lambda good: replace(good, clearance=replace(good.clearance, mac=b"\0" * 32)),
        lambda good: replace(good, clearance=replace(good.clearance, location=Location.EDGE)),
        lambda good: replace(
            good,
            clearance=Clearance(
                location=Location.CLOUD, tags=frozenset(), mac=cleared_for(Location.EDGE).clearance.mac
            ),
        ),
        lambda _: None,
    ],
)
def test_a_clearance_for_another_text_or_location_is_not_valid(forge):
    good = cleared_for(Location.CLOUD)
    assert require_clearance(good, Location.CLOUD) is good.request
    with pytest.raises(PrivacyViolation) as caught:
        require_clearance(forge(good), Location.CLOUD)
    assert "words" not in str(caught.value)


def test_moving_text_between_messages_breaks_the_mac():
    guard = PrivacyGuard()
    whole = Request(messages=(Message(role="user", content="ab"), Message(role="user", content="c")))
    moved = Request(messages=(Message(role="user", content="a"), Message(role="user", content="bc")))
    cleared = guard.clear(guard.assess(whole, POLICY), Location.CLOUD)
    with pytest.raises(PrivacyViolation):
        require_clearance(replace(cleared, request=moved), Location.CLOUD)


class Broken:
    name = "email"

    def find(self, text: str):
        raise RuntimeError(text)


def test_a_detector_that_raises_keeps_the_request_on_the_device_and_its_text_out_of_the_log(caplog):
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    with (
        HybridLLM([cloud, edge], POLICY, sensors=FixedSensors(), detectors=[Broken()]) as client,
        caplog.at_level(logging.DEBUG),
    ):
        reply = client.generate("SECRET-PROMPT")
    assert reply.backend == "edge"
    assert cloud.requests == []
    assert "the detector email failed" in reply.decision.excluded["cloud"]
    assert "SECRET-PROMPT" not in caplog.text


def test_detectors_scan_every_text_that_would_be_sent():
    guard = PrivacyGuard()
    for hidden in (
        request(output_schema='{"title": "a@example.org"}'),
        Request(messages=(Message(role="system", content="a@example.org"), Message(role="user", content="x"))),
        Request(messages=(Message(role="user", content="x"), Message(role="tool", content="a@example.org"))),
    ):
        assert guard.assess(hidden, POLICY).request.privacy == {"local"}


FOUND = {
    "email": ["jane.doe+x@mail.example.org", "邮箱a@example.com。"],
    "phone": ["+44 20 7946 0958", "(212) 555-0187", "电话13912345678"],
    "payment_card": ["4111 1111 1111 1111", "5500-0000-0000-0004"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "ip_address": ["192.168.1.77", "2001:db8::ff00:42:8329"],
    "us_ssn": ["123-45-6789"],
    "cn_resident_id": ["11010519491231002X"],
    "medical_record": ["MRN: 00482913", "patient number 77-1234"],
    "credential": ["AKIAIOSFODNN7EXAMPLE", "password = hunter2hunter2", "-----BEGIN RSA PRIVATE KEY-----"],
}
NOT_FOUND = {
    "email": ["name at example", "a@b"],
    "phone": ["call 911", "the year 2024", "3.14159265358979"],
    "payment_card": ["4111 1111 1111 1112", "0000 0000 0000 0000"],
    "iban": ["DE89 3704 0044 0532 0130 01"],
    "ip_address": ["999.1.1.1", "1.2.3"],
    "us_ssn": ["000-12-3456", "123-00-6789"],
    "cn_resident_id": ["110105194912310021"],
    "medical_record": ["a patient man"],
    "credential": ["my password is safe", "token of love"],
}


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in FOUND.items() for t in texts])
def test_what_a_detector_must_find(name, text):
    from hybrid_llm.router.privacy.detectors import DETECTORS

    assert list(DETECTORS[name].find(f"please note {text} and go on"))


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in NOT_FOUND.items() for t in texts])
def test_what_a_detector_must_leave(name, text):
    from hybrid_llm.router.privacy.detectors import DETECTORS

    assert not list(DETECTORS[name].find(f"please note {text} and go on"))


def test_every_detector_a_policy_may_name_exists():
    from hybrid_llm.core.protocols import DETECTOR_NAMES
    from hybrid_llm.policies import KNOWN_DETECTORS
    from hybrid_llm.router.privacy.detectors import DETECTORS

    assert tuple(DETECTORS) == DETECTOR_NAMES
    assert frozenset(DETECTOR_NAMES) == KNOWN_DETECTORS


def test_a_role_that_is_changed_breaks_the_mac():
    good = cleared_for(Location.CLOUD)
    system = replace(good.request, messages=(Message(role="system", content="words"),))
    with pytest.raises(PrivacyViolation):
        require_clearance(replace(good, request=system), Location.CLOUD)


def test_after_a_detector_raises_the_guard_clears_for_the_device_only():
    guard = PrivacyGuard([Broken()])
    assessment = guard.assess(request(), POLICY)
    assert assessment.allowed == assessment.cacheable == {Location.EDGE}
    assert "email failed" in assessment.blocked[Location.CLOUD]
    with pytest.raises(PrivacyViolation):
        guard.clear(assessment, Location.CLOUD)
