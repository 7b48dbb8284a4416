"""`to_cloud: sealed`: only a backend that seals gets such a request, in the policy and again by its clearance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.clearance import require_clearance
from hybrid_llm.core.errors import NoEligibleBackend, PolicyError, PrivacyViolation
from hybrid_llm.core.request import Location, Message, Request, RequestMetadata
from hybrid_llm.core.signals import BackendState, Signals
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.privacy import PrivacyGuard
from tests.fakes import FakeBackend

BACKENDS = {"edge": Location.EDGE, "cloud": Location.CLOUD, "vault": Location.CLOUD}
HEAD = "version: 1\nname: p\n"
TEXT = (
    HEAD + "tags:\n"
    "  phi: {allow: [edge, cloud], to_cloud: sealed}\n"
    "  both: {allow: [edge, cloud], to_cloud: [pseudonymise, sealed], detect: [email]}\n"
    "  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [us_ssn]}\n"
    "  local: {allow: [edge]}\n"
    "  free: {allow: [edge, cloud]}\n"
    "rules: [{prefer: [cloud, vault, edge]}]\n"
)
POLICY = parse_policy(TEXT, backends=BACKENDS)
SEALING = {"phi", "both"}


def states(*sealed):
    return {name: BackendState(name=name, location=where, sealed=name in sealed) for name, where in BACKENDS.items()}


def asked(text, *tags):
    return Request(messages=(Message(role="user", content=text),), privacy=frozenset(tags))


@given(
    tags=st.sets(st.sampled_from(["phi", "both", "pii", "local", "free"])),
    sealed=st.sets(st.sampled_from(sorted(BACKENDS))),
)
def test_a_request_whose_tag_demands_it_is_never_ordered_to_a_backend_that_does_not_seal(tags, sealed):
    decision = POLICY.decide(RequestMetadata(privacy=frozenset(tags)), Signals(backends=states(*sealed)))
    if tags & SEALING:
        assert all(name in sealed for name in decision.order if BACKENDS[name] is Location.CLOUD)
        assert all(decision.excluded[name] for name in BACKENDS if name not in decision.order)
    elif "local" not in tags:
        assert set(decision.order) == set(BACKENDS)
    assert "edge" in decision.order


def test_the_reason_names_the_tag():
    decision = POLICY.decide(RequestMetadata(privacy=frozenset({"phi"})), Signals(backends=states("vault")))
    assert decision.order == ("vault", "edge")
    assert decision.excluded["cloud"] == "tag phi goes to the cloud only sealed, and this backend is not `sealed`"


@pytest.mark.parametrize(("tag", "must"), [("phi", True), ("free", False)])
def test_the_clearance_says_that_the_request_must_be_sealed(tag, must):
    guard = PrivacyGuard()
    cleared = guard.clear(guard.assess(asked("a question", tag), POLICY), Location.CLOUD)
    assert cleared.clearance.sealed is must
    assert require_clearance(cleared, Location.CLOUD, seals=True)
    if must:
        with pytest.raises(PrivacyViolation, match="must be sealed"):
            require_clearance(cleared, Location.CLOUD)
    else:
        assert require_clearance(cleared, Location.CLOUD)


def test_nobody_can_take_the_demand_off_a_clearance():
    from dataclasses import replace

    guard = PrivacyGuard()
    cleared = guard.clear(guard.assess(asked("a question", "phi"), POLICY), Location.CLOUD)
    forged = replace(cleared, clearance=replace(cleared.clearance, sealed=False))
    with pytest.raises(PrivacyViolation, match="does not cover"):
        require_clearance(forged, Location.CLOUD)


def test_both_forms_together_seal_a_request_with_pseudonyms():
    guard = PrivacyGuard()
    assessment = guard.assess(asked("write to jane.doe@example.org"), POLICY)
    cleared = guard.clear(assessment, Location.CLOUD)
    assert cleared.clearance.sealed
    assert "jane.doe" not in cleared.request.messages[0].content
    assert assessment.cacheable == {Location.EDGE}


def test_a_detected_tag_demands_it_too_and_the_device_answers_where_nothing_is_sealed(caplog):
    policy = parse_policy(HEAD + "tags: {pii: {allow: [edge, cloud], to_cloud: sealed, detect: [email]}}\n"
                          "rules: [{prefer: [cloud, edge]}]\n")  # fmt: skip
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    with HybridLLM([edge, cloud], policy=policy) as llm:
        assert llm.generate("hello").backend == "cloud"
        assert "tag pii goes to the cloud only sealed, and no backend seals" in caplog.text
        assert llm.generate("I am jane.doe@example.org").backend == "edge"
        with pytest.raises(NoEligibleBackend, match="only sealed"):
            llm.generate("I am jane.doe@example.org", backends=["cloud"])


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("{allow: [edge], to_cloud: sealed}", "never goes to the cloud"),
        ("{allow: [edge, cloud], to_cloud: [sealed, sealed]}", "twice|again|each once"),
        ("{allow: [edge, cloud], to_cloud: []}", "to_cloud"),
        ("{allow: [edge, cloud], to_cloud: boxed}", "boxed"),
        ("{allow: [edge, cloud], to_cloud: [pseudonymise, sealed]}", "no `detect`"),
        ("{allow: [edge, cloud], to_cloud: sealed, accept_undetected_names: true}", "only beside"),
        ("{allow: [edge, cloud], to_cloud: sealed, cache: [cloud]}", "may be cached only"),
    ],
)
def test_what_has_no_meaning_is_refused_with_its_place(tag, message):
    with pytest.raises(PolicyError, match=message):
        parse_policy(f"{HEAD}tags:\n  t: {tag}\n")
