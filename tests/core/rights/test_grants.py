"""Rights: nothing is allowed by default, the first entry decides, and patterns match what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import PermissionDenied, PolicyError
from hybrid_llm.core.rights.counters import MemoryCounters
from hybrid_llm.core.rights.gate import Gate
from hybrid_llm.core.rights.grants import (
    Account,
    Caller,
    Grant,
    Operation,
    Rights,
    Wanted,
    matches,
)
from hybrid_llm.core.rights.quotas import Quotas
from hybrid_llm.core.rights.tokens import TokenSpec
from hybrid_llm.policies.rights import parse_rights, rights_schema

words = st.text("ab", min_size=1, max_size=3)
patterns = st.lists(st.text("ab*", min_size=1, max_size=4), min_size=1, max_size=2).map(tuple)
grants = st.builds(
    Grant,
    name=words,
    who=patterns,
    tenants=patterns,
    claims=st.dictionaries(st.sampled_from("xy"), st.lists(words, min_size=1, max_size=2).map(tuple), max_size=1),
    use=st.lists(st.sampled_from(list(Operation)), max_size=4, unique=True).map(tuple),
    models=patterns,
    tasks=patterns,
    priority=st.integers(0, 2),
)
callers = st.builds(
    Caller,
    identity=words,
    tenant=st.none() | words,
    claims=st.dictionaries(st.sampled_from("xy"), st.lists(words, max_size=2).map(tuple), max_size=2),
)
wishes = st.builds(
    Wanted,
    operation=st.just(Operation.GENERATE),
    models=st.lists(words, max_size=2).map(tuple),
    task=st.just("") | words,
    tenant=st.none() | words,
    priority=st.integers(0, 2),
)


def oracle(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


@given(st.text("ab*", max_size=6), st.text("ab", max_size=6))
def test_a_star_stands_for_any_characters_and_nothing_else_is_special(pattern, text):
    assert matches(pattern, text) == oracle(pattern, text)


def test_a_pattern_of_many_stars_takes_linear_time():
    assert not matches("*a" * 100 + "*b*", "a" * 256)


def allows(grant: Grant, caller: Caller, wanted: Wanted) -> bool:
    """An independent reading of one entry."""
    tenant = (caller.tenant if caller.tenant is not None else wanted.tenant) or ""
    return (
        any(oracle(each, caller.identity) for each in grant.who)
        and all(
            any(value in caller.claims.get(claim, ()) for value in values) for claim, values in grant.claims.items()
        )
        and any(oracle(each, tenant) for each in grant.tenants)
        and wanted.operation in grant.use
        and any(oracle(each, model) for each in grant.models for model in wanted.models)
        and any(oracle(each, wanted.task) for each in grant.tasks)
        and wanted.priority <= grant.priority
    )


@given(st.lists(grants, max_size=4).map(tuple), callers, wishes)
def test_nothing_is_allowed_that_no_entry_allows(entries, caller, wanted):
    verdict = Rights(grants=entries).decide(caller, wanted)
    if verdict.allowed:
        assert verdict.grant in entries
        assert allows(verdict.grant, caller, wanted)
        assert caller.tenant is None or not wanted.tenant or wanted.tenant == caller.tenant
    else:
        assert verdict.objection


@given(st.lists(grants, max_size=4).map(tuple), callers, st.sampled_from(list(Operation)))
def test_an_operation_that_no_entry_about_the_caller_has_is_denied(entries, caller, operation):
    allowed = Rights(grants=entries).may(caller, operation).allowed
    about = [
        each
        for each in entries
        if any(oracle(pattern, caller.identity) for pattern in each.who)
        and all(set(values) & set(caller.claims.get(claim, ())) for claim, values in each.claims.items())
        and (caller.tenant is None or any(oracle(pattern, caller.tenant) for pattern in each.tenants))
    ]
    assert allowed == any(operation in each.use for each in about)


@given(st.lists(grants, max_size=3).map(tuple), callers, wishes)
def test_what_is_decided_later_was_let_in_earlier(entries, caller, wanted):
    rights = Rights(grants=entries)
    if rights.decide(caller, wanted).allowed:
        assert rights.may(caller, wanted.operation).allowed


class Swapped:
    """A source that gives other rights from the second look on."""

    def __init__(self, rights: Rights) -> None:
        self.current = rights


@given(st.lists(grants, max_size=3).map(tuple), st.lists(grants, max_size=3).map(tuple), callers, wishes)
def test_a_reload_between_two_checks_of_a_request_never_widens_what_it_may_do(before, after, caller, wanted):
    source = Swapped(Rights(grants=before))
    gate = Gate(source, Quotas(MemoryCounters()), backend="node")
    try:
        admitted = gate.admit(caller, wanted.operation)
    except PermissionDenied:
        return
    source.current = Rights(grants=after)
    try:
        share = gate.check(admitted, wanted)
    except PermissionDenied:
        return
    first, second = Rights(grants=before).decide(caller, wanted), Rights(grants=after).decide(caller, wanted)
    assert first.allowed
    assert second.allowed, "what was taken away meanwhile is gone at once"
    assert share.limits == first.grant.limits


@pytest.mark.parametrize(("before", "after"), [("small", "*"), ("*", "small")])
def test_a_request_is_held_to_the_rights_of_its_beginning_and_to_those_of_now(before, after):
    source = Swapped(Rights(grants=(Grant(name="app", who=("app",), models=(before,)),)))
    gate = Gate(source, Quotas(MemoryCounters()), backend="node")
    admitted = gate.admit(Caller(identity="app"), Operation.GENERATE)
    source.current = Rights(grants=(Grant(name="app", who=("app",), models=(after,)),))
    assert gate.check(admitted, Wanted(operation=Operation.GENERATE, models=("small",)))
    large = Wanted(operation=Operation.GENERATE, models=("large",))
    assert not gate.allows(admitted, large)
    with pytest.raises(PermissionDenied, match="use this model"):
        gate.check(admitted, large)


def test_the_first_entry_about_a_caller_decides():
    narrow = Grant(name="narrow", who=("app",), models=("small",))
    wide = Grant(name="wide", who=("*",), models=("*",))
    rights, wanted = Rights(grants=(narrow, wide)), Wanted(operation=Operation.GENERATE, models=("large",))
    assert rights.decide(Caller(identity="app"), wanted).objection == "the model"
    assert rights.decide(Caller(identity="other"), wanted).grant is wide


def test_a_tenant_that_credentials_vouch_for_cannot_be_changed_by_the_request():
    rights = Rights(grants=(Grant(name="all", who=("*",), models=("*",)),))
    caller = Caller(identity="jwt:ann", tenant="acme")
    for tenant, allowed in ((None, True), ("", True), ("acme", True), ("rival", False)):
        wanted = Wanted(operation=Operation.GENERATE, models=("m",), tenant=tenant)
        assert rights.decide(caller, wanted).allowed is allowed, tenant


@pytest.mark.parametrize(("tenants", "allowed"), [(("*",), False), (("**",), False), (("ac*",), True), (("b",), False)])
def test_a_token_without_the_claim_of_tenants_names_only_one_that_its_entry_lists(tenants, allowed):
    grant = Grant(name="all", who=("*",), tenants=tenants, models=("*",), use=(Operation.GENERATE, Operation.STORED))
    spec = TokenSpec(keys="https://x", algorithm="ES256", issuer="i", audience="a", tenant="org")
    wanted, bare = Wanted(operation=Operation.GENERATE, models=("m",), tenant="acme"), Caller(identity="jwt:ann")
    for tokens, caller, any_counts in ((spec, bare, False), (None, bare, True), (spec, Caller(identity="app"), True)):
        rights = Rights(grants=(grant,), tokens=tokens)
        expected = allowed or (any_counts and tenants[0].startswith("*"))
        assert rights.decide(caller, wanted).allowed is expected
        assert rights.may(caller, Operation.STORED, "acme").allowed is expected
    assert Rights(grants=(grant,), tokens=spec).may(bare, Operation.STORED).allowed, "it names no tenant"


@pytest.mark.parametrize(
    ("account", "expected"),
    [(Account.IDENTITY, "identity:app"), (Account.TENANT, "tenant:acme"), (Account.ENTRY, "entry:all")],
)
def test_what_the_limits_count(account, expected):
    grant = Grant(name="all", who=("*",), models=("*",), account=account)
    assert grant.account_of(Caller(identity="app"), "acme") == expected


HEAD = "version: 1\nrights:\n"


@pytest.mark.parametrize(
    ("text", "line", "says", "hint"),
    [
        ("version: 1\n", 1, "`rights` is missing", None),
        (HEAD + "  - {name: a, who: x}\n", 3, "`models` is missing", 'models: ["*"]'),
        (HEAD + "  - {name: a, who: x, models: m, acount: tenant}\n", 3, "no key `acount`", "account"),
        (HEAD + "  - {name: a, who: x, models: m, use: [generat]}\n", 3, "generat", "generate"),
        (HEAD + "  - {name: a, who: x, models: m, tokens_per_minute: 0}\n", 3, "whole number", None),
        (HEAD + "  - {name: a, who: x, models: m, tokens_per_day: 1e9}\n", 3, "whole number", None),
        (HEAD + "  - {name: a, who: [], models: m}\n", 3, "at least 1 item", None),
        (HEAD + "  - {name: a, who: x, models: m, weight: 0}\n", 3, "a number from 0.001", None),
        (HEAD + "  - {name: a, who: x, models: m, account: tenant}\n", 3, "needs `tenants`", "list the tenants"),
        (HEAD + "  - {name: a, who: x, models: m, claims: {g: h}}\n", 3, "no tokens are accepted", "tokens:"),
        (HEAD + "  - {name: a, who: x, models: m}\n  - {name: a, who: y, models: m}\n", 3, "two entries", "own"),
        (HEAD + "  - {name: a, who: x, models: m}\n    who: y\n", 4, "", None),
        (HEAD + f"  - {{name: a, who: {'x' * 300}, models: m}}\n", 3, "at most 256", None),
        ("version: 2\nrights: []\n", 1, "version", None),
        ("rights: []\n", 1, "`version` is missing", "version: 1"),
    ],
)
def test_a_broken_file_is_refused_with_its_position_and_a_hint(text, line, says, hint):
    with pytest.raises(PolicyError) as caught:
        parse_rights(text, Path("rights.yaml"))
    first = caught.value.errors[0]
    assert (first.path, first.line) == ("rights.yaml", line)
    assert says in str(caught.value)
    assert hint is None or hint in (first.hint or "")


TOKENS = "version: 1\nrights: []\ntokens: {{keys: {keys}, algorithm: {algorithm}, issuer: i, audience: a}}\n"


@pytest.mark.parametrize(
    ("keys", "algorithm", "says"),
    [
        ("k.pem", "none", "`none` is not"),
        ("k.pem", "HS256", "`HS256` is not"),
        ("'http://id.example/jwks'", "ES256", "is not an https: URL or a path"),
        ("'ftp://id.example/jwks'", "ES256", "is not an https: URL or a path"),
    ],
)
def test_no_algorithm_of_a_shared_secret_and_no_keys_over_plain_http_are_accepted(keys, algorithm, says):
    with pytest.raises(PolicyError, match=says):
        parse_rights(TOKENS.format(keys=keys, algorithm=algorithm))


def test_a_valid_file_is_read_and_an_empty_list_allows_nothing():
    rights = parse_rights(TOKENS.format(keys="'https://id.example/jwks'", algorithm="ES256"))
    assert rights.tokens.keys == "https://id.example/jwks"
    assert not rights.may(Caller(identity="spiffe://hybrid-llm/client/app"), Operation.HEALTH).allowed
    assert parse_rights(TOKENS.format(keys="k.pem", algorithm="ES256"), Path("/etc/r.yaml")).tokens.keys == Path(
        "/etc/k.pem"
    )


def test_the_schema_knows_every_key():
    entry = rights_schema()
    assert "tokens_per_minute" in str(entry)
