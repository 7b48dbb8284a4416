"""Two policies over the same situations: who would go elsewhere, why, and who may now reach a place that was shut."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.request import Location, Message, Request, RequestMetadata
from hybrid_llm.lab.casefile import default_signals
from hybrid_llm.lab.diff import compare
from hybrid_llm.policies import builtin_names, builtin_policy, parse_policy

HEAD = "version: 1\nname: p\ntags: {phi: {allow: [edge]}, public: {allow: [edge, cloud]}}\nrules:\n"
OLD = parse_policy(HEAD + "  - prefer: [edge, cloud]\n")
NEW = parse_policy(HEAD + "  - {exclude: edge, when: request.prompt_tokens > 50, because: long}\n  - prefer: [cloud]\n")


def sample(*tags: str, tokens: int = 10, policy=OLD):
    request = Request(messages=(Message(role="user", content="x"),), privacy=frozenset(tags), prompt_tokens=tokens)
    return RequestMetadata.of(request), default_signals(policy)


def test_rerouted_requests_are_reported_with_both_rules_and_the_reason():
    difference = compare(OLD, NEW, [sample("public"), sample("phi"), sample(tokens=60)])
    public, long = difference.changes
    assert (public.old.route, public.new.route, public.why) == ("edge > cloud", "cloud > edge", "always")
    assert (long.old.rule, long.new.rule, long.why) == ("rules[0]", "rules[1]", "not edge: long (rules[0])")
    assert (difference.total, difference.elsewhere) == (3, 2)
    assert difference.routes == (("edge", "cloud", 2), ("edge", "edge", 1))


def test_a_change_of_what_follows_a_failure_only_is_not_elsewhere():
    edge_only = parse_policy(HEAD + "  - exclude: cloud\n  - prefer: [edge]\n")
    (change,) = compare(OLD, edge_only, [sample()]).changes
    assert not change.elsewhere
    assert change.why == "not cloud: always (rules[0])"


def test_a_location_that_was_excluded_before_is_marked():
    open_now = parse_policy(HEAD.replace("phi: {allow: [edge]}", "phi: {allow: [edge, cloud]}") + "  - prefer: edge\n")
    (change,) = compare(OLD, open_now, [sample("phi"), sample("public")]).changes
    assert change.exposed == (Location.CLOUD,)


def test_a_tag_that_the_new_policy_lacks_is_reported_as_refused():
    without = parse_policy("version: 1\nname: p\ntags: {public: {allow: [edge, cloud]}}\nrules: []\n")
    (change,) = compare(OLD, without, [sample("phi")]).changes
    assert (change.new.first, change.new.route) == ("refused", "refused")
    assert "'phi' is not declared" in change.why


@settings(deadline=None)
@given(name=st.sampled_from(builtin_names()), tokens=st.integers(0, 50_000), battery=st.none() | st.floats(0, 1))
def test_a_policy_differs_from_itself_in_nothing(name, tokens, battery):
    policy = builtin_policy(name)
    metadata, signals = sample("public", tokens=tokens, policy=policy)
    signals = replace(signals, device=replace(signals.device, battery=battery, charging=False))
    difference = compare(policy, policy, [(metadata, signals)])
    assert (difference.changes, difference.elsewhere) == ((), 0)
