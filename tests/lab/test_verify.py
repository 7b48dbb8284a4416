"""`policy verify`: what it reports of sound code is true; a mistake planted in guard, policy or attempts is found.

HYBRID_TESTS_PROOFS=1 verifies all built-in policies, not one.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from functools import cache

import pytest

from hybrid_llm.core.request import Location
from hybrid_llm.lab.verify.report import ATTEMPTED, CLEARED, DECIDED, REACHED, UNTAGGED, Claim, Verification
from hybrid_llm.lab.verify.search import Parts, verify
from hybrid_llm.policies import Policy, builtin_names, builtin_policy, parse_policy
from hybrid_llm.router.execution.attempts import Attempts
from hybrid_llm.router.privacy import PrivacyGuard

EDGE, CLOUD = Location.EDGE, Location.CLOUD
SMALL = """\
version: 1
name: small
tags:
  phi:    {allow: [edge], detect: [medical_record]}
  pii:    {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
  public: {allow: [edge, cloud]}
rules:
  - exclude: edge
    when: device.cpu_load > 90%
    because: the device is busy
  - prefer: [cloud, edge]
    when: network.online
  - rank: {latency: 1.0}
resilience: {retries: 1}
"""
TINY = SMALL.replace("{retries: 1}", "{retries: 0}")
PUBLIC, PII = SMALL.splitlines(keepends=True)[5:3:-1]
RANK = "  - rank: {latency: 1.0}\n"
TINIEST = TINY.replace(PUBLIC, "").replace(RANK, "")
BRAVE = SMALL.replace("{retries: 1}", "{retries: 1, hedge_after: 50ms, continue_streams: true}")
BRAVE = BRAVE.replace(PII, "").replace(RANK, "")
ON_EDGE = Claim(tag=UNTAGGED, locations=frozenset({EDGE}))


def said(report: Verification) -> dict[str, str]:
    return {statement.tag: statement.text() for statement in report.statements}


def steps(report: Verification, tag: str) -> tuple[str, ...]:
    (statement,) = [statement for statement in report.statements if statement.tag == tag]
    assert statement.violation is not None, f"{tag} is not broken"
    return (statement.violation.promise, *statement.violation.steps)


def test_the_small_policy_is_verified_tag_by_tag():
    report = verify(parse_policy(SMALL))
    assert report.holds
    assert said(report) == {
        "phi": "never leaves the device; answers are cached on edge",
        "pii": "reaches edge as it is; reaches cloud only with pseudonyms; answers are cached on edge",
        "public": "reaches edge and cloud as it is; answers are cached on edge",
        UNTAGGED: "reaches edge and cloud as it is; answers are cached on edge",
    }
    assert report.scope.judgements > 50
    assert report.scope.decisions > 500
    assert report.scope.requests > 300
    assert any("a request without a tag" in note for note in report.notes)


def test_hedges_and_continuations_are_verified_too():
    report = verify(parse_policy(BRAVE))
    assert report.holds, [statement.violation for statement in report.statements]
    assert "silent until a hedge" in report.scope.searched["failures"]
    assert said(report)["phi"].startswith("never leaves the device")


@cache
def built_in(name: str) -> Verification:
    """The report of a built-in policy, for all tests; of `private-first` with a claim."""
    return verify(builtin_policy(name), claims=[ON_EDGE] if name == "private-first" else [])


@pytest.mark.parametrize("name", builtin_names() if os.environ.get("HYBRID_TESTS_PROOFS") else ["private-first"])
def test_the_built_in_policies_are_verified(name):
    report = built_in(name)
    assert report.holds
    for tag in ("phi", "secret"):
        assert said(report)[tag].startswith("never leaves the device")
    hidden = "reaches edge as it is; reaches cloud only with pseudonyms"
    assert said(report)["pii"].startswith("never leaves the device" if name == "private-first" else hidden)


def test_a_condition_on_tags_alone_is_taken_as_it_is():
    ((claim, broken),) = built_in("private-first").claims
    assert (claim, broken) == (ON_EDGE, None)
    report = verify(parse_policy(TINY), claims=[ON_EDGE])
    ((_, broken),) = report.claims
    assert not report.holds
    assert broken.steps[0] == "the app declares no tag"
    assert broken.steps[-1] == "cloud is called with the request as it is"
    assert len(broken.steps) <= 5


def test_tags_that_the_configuration_adds_to_every_request_are_noted():
    report = verify(parse_policy(TINY), defaults=frozenset({"phi"}))
    assert "the configuration tags every request phi" in report.notes
    assert not any("without a tag" in note for note in report.notes)


def test_a_tag_that_no_detector_sets_and_one_that_reaches_no_backend_are_noted():
    text = "version: 1\nname: p\ntags: {quiet: {allow: [edge]}, shut: {allow: []}}\nrules: []\n"
    report = verify(parse_policy(text))
    assert report.holds
    assert "no detector sets the tag quiet: it protects only what the app declares" in report.notes
    assert "no request with the tag shut ever reaches a backend" in report.notes
    assert said(report)["shut"] == "reaches no backend"


def test_a_large_policy_is_bounded_and_the_scope_reports_how():
    tags = "".join(f"  t{i}: {{allow: [edge], detect: [email, phone]}}\n" for i in range(8))
    rules = "".join(f"  - exclude: eu\n    when: device.cpu_load > 0.{i}\n" for i in range(1, 10))
    rules += "".join(f"  - prefer: [eu, phone]\n    when: device.cpu_load > 0.{i}\n" for i in range(9, 0, -1))
    policy = parse_policy(
        f"version: 1\nname: p\ntags:\n{tags}rules:\n{rules}resilience: {{retries: 0}}\n",
        backends={"phone": EDGE, "eu": CLOUD, "us": CLOUD},
    )
    report = verify(policy)
    assert report.holds
    assert report.scope.decisions < 200_000
    assert "of 18 conditions" in report.scope.searched["conditions"]
    assert "each one, each two" in report.scope.searched["tags"]


# Mistakes planted in the code that is put to the report.


class Untagged(Policy):
    """Excludes no backend for a tag."""

    def _ineligible(self, tags, states):
        del tags
        return super()._ineligible(frozenset(), states)


class Gullible(Policy):
    """Believes that a backend is where the policy declares it."""

    def _ineligible(self, tags, states):
        declared = {name: replace(state, location=self.backends[name]) for name, state in states.items()}
        return super()._ineligible(tags, declared)


def as_kind(kind: type[Policy]) -> Policy:
    """The tiniest policy, made of another class."""
    policy = parse_policy(TINIEST)
    return kind(**{field.name: getattr(policy, field.name) for field in fields(policy) if field.init})


@cache
def with_mistake(kind: type[Policy], parts: Parts) -> Verification:
    """The report of a policy of *kind* with *parts*, for all tests."""
    return verify(as_kind(kind), parts=parts)


class Lenient(Policy):
    """Takes a hard rule for a wish."""

    def decide(self, request, signals):
        decision = super().decide(request, signals)
        ruled = [name for name, why in decision.excluded.items() if "(rules[" in why]
        return replace(decision, order=(*decision.order, *ruled))


class Generous(Policy):
    """Allows every location: guard and policy both believe it."""

    def allowed(self, tags):
        super().allowed(tags)
        return frozenset(Location)


class Sloppy(Policy):
    """Lets answers be cached everywhere."""

    def cacheable(self, tags):
        del tags
        return frozenset(Location)


class Stray(Attempts):
    """Falls back to every backend there is."""

    def _candidates(self):
        return [*super()._candidates(), *(name for name in self.breakers if name not in self.decision.order)]


class Lax(PrivacyGuard):
    """Clears everything."""

    def assess(self, request, policy, *, continues=None):
        return replace(super().assess(request, policy), allowed=frozenset(Location))


class Blind(PrivacyGuard):
    """Sets no tag for what is found."""

    def assess(self, request, policy, *, continues=None):
        assessment = super().assess(request, policy)
        untagged = replace(assessment.request, privacy=request.privacy)
        return replace(assessment, request=untagged, allowed=policy.allowed(request.privacy))


class Naked(PrivacyGuard):
    """Sends the cloud the texts without pseudonyms."""

    def assess(self, request, policy, *, continues=None):
        return replace(super().assess(request, policy), pseudonymised=None)


class Careless(PrivacyGuard):
    """Takes a detector that fails for one that finds nothing."""

    def assess(self, request, policy, *, continues=None):
        assessment = super().assess(request, policy)
        tags = assessment.request.privacy
        return replace(assessment, allowed=policy.allowed(tags), cacheable=policy.cacheable(tags), blocked={})


@pytest.mark.parametrize(
    ("policy", "parts", "tag", "promise", "last"),
    [
        (Untagged, Parts(), "phi", DECIDED, "but cloud is in the order, and tag phi allows only edge"),
        (Gullible, Parts(), UNTAGGED, DECIDED, "but edge is in the order, and it is not ready"),
        (
            Lenient,
            Parts(),
            UNTAGGED,
            DECIDED,
            "but edge is in the order, and it is not ready, or a hard rule excludes it",
        ),
        (Generous, Parts(), "phi", CLEARED, "but tag phi allows only edge"),
        (Sloppy, Parts(), "phi", CLEARED, "but tag phi allows only edge"),
        (Policy, Parts(guard=Lax), "phi", CLEARED, "but tag phi allows only edge"),
        (Policy, Parts(guard=Blind), "phi", CLEARED, "the guard tags it untagged instead of phi"),
        (Policy, Parts(guard=Naked), "pii", CLEARED, "but what email finds is still in the text"),
        (Policy, Parts(guard=Careless), UNTAGGED, CLEARED, "but the detector email of tag pii failed"),
        (Policy, Parts(attempts=Stray), UNTAGGED, ATTEMPTED, "then the guard has to block the next call"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_planted_mistake_is_found_and_shown_in_a_few_steps(policy, parts, tag, promise, last):
    report = with_mistake(policy, parts)
    assert not report.holds
    found = steps(report, tag)
    assert found[0] == promise
    assert last in found[-1]
    assert len(found) <= 7


def test_attempts_that_stray_where_no_tag_forbids_it_are_found_too():
    policy = parse_policy("version: 1\nname: p\nrules: []\nresilience: {retries: 0}\n")
    found = steps(verify(policy, parts=Parts(attempts=Stray)), UNTAGGED)
    assert found[0] == ATTEMPTED
    assert found[-2] in {f"{name} is called with the request as it is" for name in ("edge", "cloud")}
    assert found[-1] == "but it is not in the order of the decision"


def test_a_declared_tag_without_findings_stays_on_the_device_also_where_it_accepts_undetected_names():
    rule = "allow: [edge, cloud], to_cloud: pseudonymise, detect: [email], accept_undetected_names: true"
    assert verify(parse_policy(f"version: 1\nname: p\ntags: {{pii: {{{rule}}}}}\nrules: []\n")).holds


def test_what_passes_both_barriers_is_reported_as_reached():
    """With a policy and a guard that both allow every location, the text itself gets to the cloud."""
    report = with_mistake(Generous, Parts())
    reached = [steps(report, statement.tag) for statement in report.statements if statement.violation is not None]
    assert {found[0] for found in reached} <= {CLEARED, REACHED, DECIDED}
    assert all(found for found in reached)
