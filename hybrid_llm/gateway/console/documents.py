"""What the console's routes answer, as typed records; none holds a text of a request or an answer.

`Side.shown` alone has texts: those that the caller has just sent, as the cloud would see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from hybrid_llm.core.decision import RuleTrace
from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.generation import AnswerWarning, AttemptRecord, Continuation, Departure, Timings, Usage
from hybrid_llm.core.savings import UNIT
from hybrid_llm.core.signals import BackendState, DeviceSignals, NetworkSignals
from hybrid_llm.gateway.console.journal import Counts, Entry
from hybrid_llm.policies import Policy
from hybrid_llm.router.preview import Preview
from hybrid_llm.router.spending.ledger import Entry as Line


@dataclass(frozen=True, slots=True, kw_only=True)
class TagDocument:
    """One privacy tag of the policy in force."""

    name: str
    allow: Sequence[str]
    pseudonymise: bool
    detect: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDocument:
    """One backend. *notice* is what a reader of its answers must know."""

    name: str
    location: str
    model: str
    notice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the page needs before anything is asked."""

    version: str
    tenant: str | None
    policy: str
    digest: str
    tags: Sequence[TagDocument]
    key_tags: Sequence[str]
    """Tags that all requests of the caller's key carry."""
    backends: Sequence[BackendDocument]
    deadline_s: float
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalsDocument:
    """What is known now; *models* is backend -> model."""

    at: float
    device: DeviceSignals
    network: NetworkSignals
    backends: Sequence[BackendState]
    models: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionDocument:
    """One finished request. *trace* is filled in where a single one is asked for."""

    number: int
    at: float
    id: str
    tenant: str | None
    task: str
    prompt_tokens: int
    max_tokens: int
    deadline_s: float
    messages: int
    tools: int
    declared: Sequence[str]
    detected: Sequence[str]
    policy: str
    digest: str
    rule: str
    because: str
    order: Sequence[str]
    excluded: Mapping[str, str]
    backend: str
    location: str
    """Of the backend that answered; empty if none did."""
    error: str
    finish_reason: str
    cached: bool
    attempts: Sequence[AttemptRecord]
    continuations: Sequence[Continuation]
    departures: Sequence[Departure]
    warnings: Sequence[AnswerWarning]
    usage: Usage
    timings: Timings
    cost: float
    trace: Sequence[RuleTrace] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingLine:
    """What one tenant spent on one day (UTC), in the ledger's currency."""

    day: str
    tenant: str
    currency: str
    spent: float
    reserved: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingDocument:
    """The ledger, the latest day first. *budget* is what a tenant may spend a day; None without a limit."""

    today: str
    excluded: Mapping[str, str]
    """Backends that a short request of the caller could not use now, each with the reason."""
    budget: float | None
    currency: str
    lines: Sequence[SpendingLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDocument:
    """One rule, the *line* where it begins, and what it did since the gateway started."""

    rule: str
    kind: str
    line: int
    because: str
    condition: str
    decided: int
    excluded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocument:
    """The policy in force, as it is written, and what its rules did."""

    name: str
    digest: str
    text: str
    requests: int
    rules: Sequence[RuleDocument]
    by_tags: int
    """Requests for which tags excluded a backend."""
    by_state: int
    """Requests for which the state of a backend excluded it."""
    by_default: int
    """Requests that no rule ordered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong in an edited policy; *line* and *column* count from 1, 0 where there is none."""

    line: int
    column: int
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one policy decides for the prompt; *refused* says why it decides nothing."""

    policy: str
    digest: str
    refused: str = ""
    rule: str = ""
    because: str = ""
    order: Sequence[str] = ()
    excluded: Mapping[str, str] | None = None
    declared: Sequence[str] = ()
    detected: Sequence[str] = ()
    allowed: Sequence[str] = ()
    pseudonymised: bool = False
    replaced: Mapping[str, int] | None = None
    shown: Sequence[str] | None = None
    trace: Sequence[RuleTrace] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewDocument:
    """A prompt under the policy in force and, if one was sent, under an edited one."""

    current: Side
    edited: Side | None = None
    faults: Sequence[Fault] = ()
    warnings: Sequence[Fault] = ()


def decision_of(entry: Entry, *, trace: bool = False) -> DecisionDocument:
    """The document of *entry*; with its *trace*, the decision is replayed."""
    event, metadata, decision = entry.event, entry.event.metadata, entry.event.decision
    answering = event.signals.backends.get(event.backend)
    return DecisionDocument(
        number=entry.number,
        at=entry.at,
        id=metadata.request_id,
        tenant=metadata.tenant,
        task=metadata.task,
        prompt_tokens=metadata.prompt_tokens,
        max_tokens=metadata.max_tokens,
        deadline_s=metadata.deadline,
        messages=metadata.message_count,
        tools=metadata.tool_count,
        declared=sorted(event.declared),
        detected=sorted(decision.tags - event.declared),
        policy=decision.policy,
        digest=decision.digest,
        rule=decision.rule,
        because=decision.because,
        order=decision.order,
        excluded=decision.excluded,
        backend=event.backend,
        location="" if answering is None else answering.location.value,
        error=event.error,
        finish_reason=str(event.finish_reason or ""),
        cached=event.cached,
        attempts=event.attempts,
        continuations=event.continuations,
        departures=event.departures,
        warnings=event.warnings,
        usage=event.usage,
        timings=event.timings,
        cost=event.cost,
        trace=_traced(decision.trace) if trace else (),
    )


def _traced(trace: Sequence[RuleTrace]) -> list[RuleTrace]:
    """*trace* with the name of the policy's file and not its folder."""
    return [replace(rule, place=PurePath(rule.place).name) for rule in trace]


def line_of(line: Line) -> SpendingLine:
    """One line of the ledger."""
    return SpendingLine(
        day=line.day,
        tenant=line.tenant,
        currency=line.currency,
        spent=line.spent / UNIT,
        reserved=line.reserved / UNIT,
        requests=line.requests,
    )


def policy_of(policy: Policy, counts: Counts) -> PolicyDocument:
    """The policy in force, with *counts*."""
    return PolicyDocument(
        name=policy.name,
        digest=policy.digest,
        text=policy.text,
        requests=counts.requests,
        rules=[
            RuleDocument(
                rule=rule.label,
                kind=rule.kind,
                line=int(rule.place.split(":")[-2]),
                because=rule.because,
                condition=" ".join(rule.text.split()),
                decided=counts.decided[rule.label],
                excluded=counts.excluded[rule.label],
            )
            for rule in policy.rules
        ],
        by_tags=counts.excluded["tags"],
        by_state=counts.excluded["state"],
        by_default=counts.decided["default"],
    )


def side_of(policy: Policy, preview: Preview) -> Side:
    """What *policy* decides."""
    decision = preview.decision
    return Side(
        policy=policy.name,
        digest=policy.digest,
        rule=decision.rule,
        because=decision.because,
        order=decision.order,
        excluded=decision.excluded,
        declared=sorted(preview.declared),
        detected=sorted(decision.tags - preview.declared),
        allowed=sorted(preview.allowed),
        pseudonymised=preview.pseudonymised,
        replaced=preview.replaced,
        shown=preview.shown,
        trace=_traced(decision.trace),
    )


def fault_of(error: PolicyError) -> Fault:
    """One error of a policy; its message without the position, the line of the file and the hint that follow."""
    first = str(error).partition("\n")[0]
    return Fault(line=error.line, column=error.column, message=first.partition(": ")[2], hint=error.hint or "")
