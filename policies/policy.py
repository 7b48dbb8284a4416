"""A policy in force: a pure function from a request and its signals to a decision. It reads no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, Breaker, Signals
from hybrid_llm.policies.document import Resilience, TagRule
from hybrid_llm.policies.language.compile import Rules, Step, compile_rules
from hybrid_llm.policies.language.schema import Objectives, Schema
from hybrid_llm.policies.reader.source import PolicyWarning, did_you_mean
from hybrid_llm.policies.rules import Replayer, Rule, rank_scores

_EVERYWHERE = frozenset(Location)
_DEFAULT = "no rule matched: the backends in the order in which they are declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a policy is made of, read and checked. *backends* is in the order in which they are declared."""

    name: str
    digest: str
    version: int
    tags: Mapping[str, TagRule]
    objectives: Objectives
    resilience: Resilience
    rules: tuple[Rule, ...]
    backends: Mapping[str, Location]
    schema: Schema
    warnings: tuple[PolicyWarning, ...] = ()


class Policy:
    """Decides where requests go. It is immutable, and safe to share between threads.

    Made by `load_policy`, `parse_policy` and `builtin_policy`; never by hand.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._backends = tuple(terms.backends.items())
        self._declared = tuple(terms.backends)
        self._orders = {rule.index: rule for rule in terms.rules if rule.kind != "exclude"}
        self._replay = Replayer(terms.rules, terms.schema).replay
        self._run: Rules = compile_rules(map(_step, terms.rules), terms.schema)

    def __repr__(self) -> str:
        return f"Policy(name={self.name!r}, digest={self.digest!r})"

    @property
    def terms(self) -> Terms:
        """Everything that it is made of."""
        return self._terms

    @property
    def name(self) -> str:
        """The name that the file gives."""
        return self._terms.name

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the text."""
        return self._terms.digest

    @property
    def version(self) -> int:
        """The version of the language."""
        return self._terms.version

    @property
    def tags(self) -> Mapping[str, TagRule]:
        """The privacy vocabulary."""
        return self._terms.tags

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order of the file."""
        return self._terms.rules

    @property
    def warnings(self) -> tuple[PolicyWarning, ...]:
        """What works and is probably not meant, in the order of the file."""
        return self._terms.warnings

    @property
    def objectives(self) -> Objectives:
        """What the policy aims at."""
        return self._terms.objectives

    @property
    def resilience(self) -> Resilience:
        """What may be tried when a backend fails."""
        return self._terms.resilience

    @property
    def backends(self) -> Mapping[str, Location]:
        """The backends that the policy was checked against."""
        return self._terms.backends

    def allowed(self, tags: Iterable[str]) -> frozenset[Location]:
        """Where a request with all of *tags* may go: what every tag allows; everywhere without tags.

        Raises:
            InvalidRequest: a tag that the policy does not declare.
        """
        allowed = _EVERYWHERE
        declared = self._terms.tags
        for tag in tags:
            rule = declared.get(tag)
            if rule is None:
                raise _undeclared(tag, declared)
            allowed &= rule.allow
        return allowed

    def cacheable(self, tags: Iterable[str]) -> frozenset[Location]:
        """Where an answer to a request with all of *tags* may be kept; everywhere without tags. Raises as `allowed`."""
        places = self.allowed(tags)
        for tag in tags:
            places &= self._terms.tags[tag].cache
        return places

    def decide(self, request: RequestMetadata, signals: Signals) -> Decision:
        """Who is asked, in which order, and why. `request.privacy` holds the effective tags.

        Raises:
            InvalidRequest: a tag that the policy does not declare.
        """
        excluded = self._barred(request.privacy, signals.backends)
        index = self._run(request, signals, excluded)
        rule = self._orders.get(index)
        return Decision(
            order=self._ordered(rule, request, signals, excluded),
            excluded=excluded,
            policy=self._terms.name,
            digest=self._terms.digest,
            rule=f"rules[{index}]" if rule else "default",
            because=rule.because if rule else _DEFAULT,
            tags=request.privacy,
            tracer=partial(self._replay, request, signals),
        )

    def _barred(self, tags: frozenset[str], states: Mapping[str, BackendState]) -> dict[str, str]:
        """The backends that are out before any rule is looked at, with the reasons."""
        allowed = self.allowed(tags)
        excluded: dict[str, str] = {}
        for name, location in self._backends:
            if location not in allowed:
                excluded[name] = self._tag_reason(tags, location)
            elif reason := _unfit(states.get(name), location):
                excluded[name] = reason
        if len(states) != len(self._backends) or states.keys() != self._terms.backends.keys():
            for name in states:
                if name not in self._terms.backends:
                    excluded[name] = "the policy does not know this backend"
        return excluded

    def _tag_reason(self, tags: Iterable[str], location: Location) -> str:
        for tag in sorted(tags):
            allow = self._terms.tags[tag].allow
            if location not in allow:
                return f"tag {tag} allows only {' and '.join(sorted(allow))}" if allow else f"tag {tag} allows no place"
        return f"no tag set allows {location}"

    def _ordered(
        self, rule: Rule | None, request: RequestMetadata, signals: Signals, excluded: Mapping[str, str]
    ) -> tuple[str, ...]:
        names = rule.targets if rule is not None else self._declared
        if rule is not None and rule.kind == "rank":
            left = [name for name in names if name not in excluded]
            scores = rank_scores(rule.weights, request, signals.backends, left)
            return tuple(sorted(left, key=scores.__getitem__))
        return tuple([name for name in names if name not in excluded])


def _unfit(state: BackendState | None, location: Location) -> str:
    """Why a backend cannot take a request now; empty where it can."""
    if state is None:
        return "nothing is known about it"
    if state.location is not location:
        return f"it runs on {state.location}, the policy was checked for {location}"
    if not state.ready:
        return state.reason or "it is not ready"
    return "its circuit breaker is open after failures" if state.breaker == Breaker.OPEN else ""


def _undeclared(tag: str, declared: Mapping[str, TagRule]) -> InvalidRequest:
    listed = ", ".join(sorted(declared)) or "none"
    hint = did_you_mean(tag, declared)
    near = f"; {hint}" if hint.startswith("did you mean") else ""
    return InvalidRequest(
        f"privacy tag {tag!r} is not declared by the policy; declared: {listed}{near}", field="privacy"
    )


def _step(rule: Rule) -> Step:
    if rule.kind != "exclude":
        return Step(rule.index, rule.condition)
    held = _hook(rule.targets, f"{rule.because} ({rule.label})")
    failed = _hook(rule.targets, f"this could not be judged, so it is left out: {rule.because} ({rule.label})")
    return Step(rule.index, rule.condition, held, failed)


def _hook(targets: tuple[str, ...], reason: str) -> Callable[[MutableMapping[str, str]], None]:
    def exclude(excluded: MutableMapping[str, str]) -> None:
        for name in targets:
            excluded.setdefault(name, reason)

    return exclude
