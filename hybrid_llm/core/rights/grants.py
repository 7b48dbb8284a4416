"""Rights: entries of a file, and whether they allow a caller what it wants. Pure; nothing is allowed by default.

The first entry that matches the caller and its tenant decides over a request; later ones are not asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Protocol

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.fields import VERSION, Choice, Found, Key, ListOf, MapOf, Number, Table, Text, Whole, key, table
from hybrid_llm.core.limits import PRIORITY
from hybrid_llm.core.rights.tokens import JWT, TOKENS, TokenSpec

ANY: Final = "*"
MOST_PATTERN: Final = 256
"""Characters of a pattern, and of an identity."""
CALLER: Final[ContextVar[str]] = ContextVar("hybrid_llm_caller", default="")
"""The identity for which this task asks; a gateway sets it for each of its requests."""


class Operation(StrEnum):
    """What a caller does; each RPC of a node and each route of a gateway is one of these."""

    GENERATE = "generate"
    DESCRIBE = "describe"
    HEALTH = "health"
    REFLECTION = "reflection"
    COUNT = "count"
    STORED = "stored"
    METRICS = "metrics"
    CONSOLE = "console"


class Account(StrEnum):
    """What the limits of an entry count: each identity, each tenant, or all callers of the entry together."""

    IDENTITY = "identity"
    TENANT = "tenant"
    ENTRY = "entry"


def _pattern(text: str) -> str:
    if len(text) > MOST_PATTERN or not text.isprintable():
        raise ValueError(f"a pattern has at most {MOST_PATTERN} printable characters")
    return text


PATTERN: Final = Text("a name, in which * stands for any characters", r"\S", _pattern)
PATTERNS: Final = ListOf(PATTERN, least=1, single=True)


def matches(pattern: str, text: str) -> bool:
    """Whether *text* is what *pattern* says; `*` is any run of characters. Linear in time."""
    first, *rest = pattern.split(ANY)
    if not rest:
        return text == first
    *middle, last = rest
    at, end = len(first), len(text) - len(last)
    if end < at or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def any_matches(patterns: tuple[str, ...], text: str) -> bool:
    """Whether one of *patterns* matches *text*."""
    return any(matches(pattern, text) for pattern in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: an authenticated *identity*.

    It is the URI of a certificate, `jwt:SUBJECT` of a token, `key:TENANT` of a key of the gateway, `local`, or
    `anonymous`. *tenant* and *claims* are what its credentials vouch for.
    """

    identity: str
    tenant: str | None = None
    claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a call is for. *models* are the names of the one model: of it and of the backend that has it."""

    operation: Operation
    models: tuple[str, ...] = ()
    task: str = ""
    tenant: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an account may use; None is without a limit."""

    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    calls: int | None = None


_COUNT: Final = Whole(1)
_USE: Final = (Operation.GENERATE, Operation.DESCRIBE, Operation.HEALTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Checked):
    """One entry of a rights file: whom it is about, what they may do, and how much."""

    name: str = key(Text("a name"), "Name of the entry, for logs and `rights explain`.")
    who: tuple[str, ...] = key(
        PATTERNS, "Identities, such as `spiffe://hybrid-llm/client/app` or `jwt:*`.", examples=("jwt:*",)
    )
    tenants: tuple[str, ...] = key(
        PATTERNS, "Tenants for which they may call; `*` includes calls without a tenant.", default=(ANY,)
    )
    claims: Mapping[str, tuple[str, ...]] = key(
        MapOf(ListOf(Text("a value of the claim"), least=1, single=True)),
        "Claims of the token, each with the values of which it must have one.",
        default=MappingProxyType({}),
    )
    use: tuple[Operation, ...] = key(
        ListOf(Choice({str(one): one for one in Operation}), single=True), "What they may do.", default=_USE
    )
    models: tuple[str, ...] = key(
        PATTERNS, "Models, or backends of a gateway, that may answer them; needed for `generate`.", default=()
    )
    tasks: tuple[str, ...] = key(
        PATTERNS, "Tasks that they may name; `*` includes requests without a task.", default=(ANY,)
    )
    priority: int = key(PRIORITY, "Highest priority that they may ask for.", default=0)
    tokens_per_minute: int | None = key(
        _COUNT, "Tokens of prompts and answers in a minute; none is without a limit.", default=None
    )
    tokens_per_day: int | None = key(_COUNT, "The same in a day.", default=None)
    calls: int | None = key(_COUNT, "Requests that are answered at once.", default=None)
    account: Account = key(
        Choice({str(one): one for one in Account}), "What limits and `weight` count.", default=Account.IDENTITY
    )
    weight: float = key(Number(0.001, 1000.0), "Share of the engine while several accounts have work.", default=1.0)

    @property
    def limits(self) -> Limits:
        """How much each of its accounts may use."""
        return Limits(tokens_per_minute=self.tokens_per_minute, tokens_per_day=self.tokens_per_day, calls=self.calls)

    def is_about(self, caller: Caller) -> bool:
        """Whether *caller* is one whom it names."""
        if not any_matches(self.who, caller.identity):
            return False
        return all(set(values) & set(caller.claims.get(claim, ())) for claim, values in self.claims.items())

    def objection(self, wanted: Wanted) -> str:
        """What it does not allow of *wanted*, as in "the task"; empty if it allows all of it."""
        if wanted.operation not in self.use:
            return "the operation"
        if wanted.operation is not Operation.GENERATE:
            return ""
        if not any(any_matches(self.models, model) for model in wanted.models):
            return "the model"
        if not any_matches(self.tasks, wanted.task):
            return "the task"
        return "the priority" if wanted.priority > self.priority else ""

    def account_of(self, caller: Caller, tenant: str) -> str:
        """The account on which a request of *caller* for *tenant* counts."""
        match self.account:
            case Account.TENANT:
                return f"tenant:{tenant}"
            case Account.ENTRY:
                return f"entry:{self.name}"
        return f"identity:{caller.identity}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a call is allowed. *grant* is the entry that decides; *objection* says what it does not allow."""

    allowed: bool
    grant: Grant | None = None
    objection: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """The entries of one file, in its order. *digest* is that of its text."""

    grants: tuple[Grant, ...]
    tokens: TokenSpec | None = None
    digest: str = ""

    def about(self, caller: Caller) -> Iterator[Grant]:
        """The entries that name *caller*; of one whose tenant is vouched for, those for that tenant."""
        for grant in self.grants:
            if grant.is_about(caller) and (caller.tenant is None or any_matches(grant.tenants, caller.tenant)):
                yield grant

    def may(self, caller: Caller, operation: Operation, tenant: str | None = None) -> Verdict:
        """Whether some entry lets *caller* do *operation*, for *tenant* if one is named; nothing else is known yet."""
        last: Verdict | None = None
        for grant in self.about(caller):
            objection = "the operation" if operation not in grant.use else ""
            if not objection and (not tenant or self._covers(grant, caller, tenant)):
                return Verdict(allowed=True, grant=grant)
            last = last or Verdict(allowed=False, grant=grant, objection=objection or "the tenant")
        return last or Verdict(allowed=False, objection="everything")

    def names(self, caller: Caller, model: str) -> bool:
        """Whether some entry about *caller* lets it generate with *model*."""
        return any(Operation.GENERATE in each.use and any_matches(each.models, model) for each in self.about(caller))

    def decide(self, caller: Caller, wanted: Wanted) -> Verdict:
        """Whether *caller* may do what is *wanted*: the first entry about it and its tenant decides."""
        if caller.tenant is not None and wanted.tenant and wanted.tenant != caller.tenant:
            return Verdict(allowed=False, objection="the tenant")
        tenant = self.tenant_of(caller, wanted) or ""
        named = False
        for grant in self.about(caller):
            named = True
            if self._covers(grant, caller, tenant):
                objection = grant.objection(wanted)
                return Verdict(allowed=not objection, grant=grant, objection=objection)
        return Verdict(allowed=False, objection="the tenant" if named else "everything")

    def explain(self, caller: Caller, wanted: Wanted) -> Iterator[tuple[str, str]]:
        """Each entry that is looked at, and what comes of it, in the words of `rights explain`."""
        tenant = self.tenant_of(caller, wanted) or ""
        by_tenant = wanted.operation is Operation.GENERATE or caller.tenant is not None
        for grant in self.grants:
            if not any_matches(grant.who, caller.identity):
                yield grant.name, "is about others: no pattern of `who` matches"
            elif not grant.is_about(caller):
                yield grant.name, "is about others: the token lacks a value of `claims`"
            elif by_tenant and not self._covers(grant, caller, tenant):
                yield grant.name, "is about other tenants"
            elif objection := grant.objection(wanted):
                yield grant.name, f"does not allow {objection}"
                if wanted.operation is Operation.GENERATE:
                    return
            else:
                yield grant.name, "allows it"
                return

    def _covers(self, grant: Grant, caller: Caller, tenant: str) -> bool:
        """Whether *grant* is about requests of *caller* for *tenant*.

        A token without the claim that names tenants has none: it may name only one that the entry lists, not any.
        """
        bare = tenant and caller.tenant is None and caller.identity.startswith(JWT)
        if bare and self.tokens is not None and self.tokens.tenant:
            return any_matches(tuple(each for each in grant.tenants if each.strip(ANY)), tenant)
        return any_matches(grant.tenants, tenant)

    @staticmethod
    def tenant_of(caller: Caller, wanted: Wanted) -> str | None:
        """The tenant of a request: the one that the credentials vouch for, else the one that the request names."""
        return caller.tenant if caller.tenant is not None else wanted.tenant


class RightsSource(Protocol):
    """Provides the rights that hold now: fixed, or from a file that is watched."""

    @property
    def current(self) -> Rights:
        """The rights that hold now."""
        ...

    def start(self) -> None:
        """Watch from now on."""
        ...

    def reload(self) -> bool:
        """Look at once; true if other rights hold now."""
        ...

    def close(self) -> None:
        """Stop watching."""
        ...


class FixedRights:
    """A source whose rights never change."""

    def __init__(self, rights: Rights) -> None:
        self.current = rights

    def start(self) -> None:
        """Do nothing: there is nothing to watch."""

    def reload(self) -> bool:
        """Nothing changes."""
        return False

    def close(self) -> None:
        """Do nothing: there is nothing to stop."""


def digest_of(text: str) -> str:
    """A short digest of the text of a file, for logs."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _make(found: Found) -> Rights:
    grants: tuple[Grant, ...] = found.values["grants"]
    names: set[str] = set()
    for grant in grants:
        if grant.name in names:
            found.reject(f"two entries are named `{grant.name}`", "give each entry a name of its own", "rights")
        names.add(grant.name)
    tokens: TokenSpec | None = found.values["tokens"]
    if tokens is None and any(grant.claims for grant in grants) and "tokens" not in found.wrong:
        found.reject("an entry asks for claims, and no tokens are accepted", "add `tokens:` with keys", "rights")
    return Rights(grants=grants, tokens=tokens)


def _make_grant(found: Found) -> Grant:
    values: dict[str, Any] = dict(found.values)
    if values["account"] is Account.TENANT and "tenants" not in found.present:
        hint = 'list the tenants, or write `tenants: ["*"]` if you trust these callers to name any'
        found.reject("`account: tenant` needs `tenants`", hint, "account")
    if Operation.GENERATE in values["use"] and "models" not in found.present:
        found.reject("`models` is missing", 'name the models, or write `models: ["*"]`')
    return Grant(**values)


GRANT: Final = table(Grant, "an entry", make=_make_grant)
RIGHTS: Final = Table(
    title="the rights file",
    about="Who may use a node or a gateway; whatever no entry allows is refused.",
    keys=(
        VERSION,
        Key("tokens", TOKENS, "Which signed tokens (JWT) are accepted; none without this key."),
        Key("rights", ListOf(GRANT), "Entries; the first about a caller decides.", "grants", required=True),
    ),
    make=_make,
)
