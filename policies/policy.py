"""A compiled policy: a pure function from a request and its signals to a decision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from hybrid_llm.core.decision import Decision, RuleTrace
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, Breaker, Signals
from hybrid_llm.policies.document import Resilience, TagRule
from hybrid_llm.policies.language.compile import Expression, Rules, Step, compile_expression, compile_rules
from hybrid_llm.policies.language.schema import Objectives, Schema
from hybrid_llm.policies.language.types import Field, Node, atoms_of, fields_of
from hybrid_llm.policies.reader.source import PolicyWarning, did_you_mean

_EVERYWHERE: Final = frozenset(Location)
_DEFAULT: Final = "no rule matched: the backends in the order in which they are declared"
_ABSENT: Final = "absent"
_UNKNOWN: Final = "cannot be evaluated"
_OPEN: Final = "its circuit breaker is open after failures"
_NO_BACKEND: Final = (("backend", "no backend has this name here"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A checked rule. *targets* of `exclude` are the backends to exclude, of `prefer` and `rank` all, in order."""

    index: int
    kind: str
    place: str
    targets: tuple[str, ...]
    because: str
    text: str = ""
    condition: Node | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The rule's name in reports."""
        return f"rules[{self.index}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """Decides where requests go. It is immutable, and safe to share between threads.

    Made by `load_policy`, `parse_policy` and `builtin_policy`.
    """

    name: str
    """The name that the file gives."""
    digest: str
    """The first 16 hex digits of the SHA-256 of the text."""
    text: str = field(default="", repr=False)
    """The whole text, as it was read."""
    version: int = 1
    """The version of the language."""
    tags: Mapping[str, TagRule]
    """The privacy vocabulary."""
    objectives: Objectives
    """What the policy aims at."""
    resilience: Resilience
    """What may be tried when a backend fails."""
    rules: tuple[Rule, ...]
    """The rules, in the order of the file."""
    backends: Mapping[str, Location]
    """The backends that the policy was checked against, in the order in which they are declared."""
    schema: Schema
    """The names that conditions can read."""
    preferred: frozenset[str] = frozenset()
    """The backends that a `prefer` names. Of the others, a specialist goes first with the requests of its tasks."""
    warnings: tuple[PolicyWarning, ...] = ()
    """What is valid and probably a mistake, in the order of the file."""
    _run: Rules = field(init=False)
    _orders: Mapping[int, Rule] = field(init=False)
    _seals: bool = field(init=False)
    """Whether a tag demands it: most policies have none, and `decide` asks for each request."""

    def __post_init__(self) -> None:
        # Compiled at load, so that `decide` only runs code; the record is frozen, hence object.__setattr__.
        object.__setattr__(self, "_run", compile_rules(map(_step, self.rules), self.schema))
        object.__setattr__(self, "_seals", any(rule.sealed for rule in self.tags.values()))
        object.__setattr__(self, "_orders", {rule.index: rule for rule in self.rules if rule.kind != "exclude"})

    def __repr__(self) -> str:
        return f"Policy(name={self.name!r}, digest={self.digest!r})"

    def allowed(self, tags: Iterable[str]) -> frozenset[Location]:
        """Where a request with all of *tags* may go: what every tag allows; everywhere without tags.

        Raises:
            InvalidRequest: a tag that the policy does not declare.
        """
        allowed = _EVERYWHERE
        declared = self.tags
        for tag in tags:
            rule = declared.get(tag)
            if rule is None:
                raise _undeclared(tag, declared)
            allowed &= rule.allow
        return allowed

    def cacheable(self, tags: Iterable[str]) -> frozenset[Location]:
        """Where an answer to a request with all of *tags* may be cached; everywhere without tags.

        Raises:
            InvalidRequest: a tag that the policy does not declare.
        """
        locations = self.allowed(tags)
        for tag in tags:
            locations &= self.tags[tag].cache
        return locations

    def sealing(self, tags: Iterable[str]) -> str:
        """The first of *tags*, all declared, that goes to the cloud only sealed; empty if none does."""
        if not self._seals:
            return ""
        return min((tag for tag in tags if self.tags[tag].sealed), default="")

    def decide(self, request: RequestMetadata, signals: Signals) -> Decision:
        """Choose the backends for *request*, whose `privacy` holds the effective tags, in the order to call them.

        Raises:
            InvalidRequest: a tag that the policy does not declare.
        """
        excluded = self._ineligible(request.privacy, signals.backends)
        index = self._run(request, signals, excluded)
        last_resort = self._exclude_open(signals.backends, excluded)
        rule = self._orders.get(index)
        order = self._ordered(rule, request, signals, excluded)
        because = rule.because if rule else _DEFAULT
        if specialists := [name for name in order if self._goes_first(name, signals.backends)]:
            order = (*specialists, *(name for name in order if name not in specialists))
            because = f"{specialists[0]} is made for the task {request.task}, and no rule prefers it; then: {because}"
        return Decision(
            order=order,
            excluded=excluded,
            policy=self.name,
            digest=self.digest,
            rule=f"rules[{index}]" if rule else "default",
            because=because,
            last_resort=last_resort,
            tags=request.privacy,
            tracer=partial(self._replay, request, signals),
        )

    def _goes_first(self, name: str, states: Mapping[str, BackendState]) -> bool:
        return states[name].specialist and name not in self.preferred

    def _ineligible(self, tags: frozenset[str], states: Mapping[str, BackendState]) -> dict[str, str]:
        """The backends that are excluded before any rule is evaluated, with the reasons."""
        allowed, sealing = self.allowed(tags), self.sealing(tags)
        excluded: dict[str, str] = {}
        for name, location in self.backends.items():
            state = states.get(name)
            if location not in allowed:
                excluded[name] = self._tag_reason(tags, location)
            elif sealing and location is Location.CLOUD and not (state is not None and state.sealed):
                excluded[name] = f"tag {sealing} goes to the cloud only sealed, and this backend is not `sealed`"
            elif reason := _unfit(state, location):
                excluded[name] = reason
        for name in states:
            if name not in self.backends:
                excluded[name] = "the policy does not know this backend"
        return excluded

    def _exclude_open(self, states: Mapping[str, BackendState], excluded: MutableMapping[str, str]) -> frozenset[str]:
        """Exclude the backends with an open circuit breaker, except, where no other is left, those that serve.

        Called when all else has been excluded, so that a last resort is never what a tag or a hard rule forbids.
        """
        opened = [name for name in self.backends if name not in excluded and states[name].breaker == Breaker.OPEN]
        if not opened:
            return frozenset()
        is_last = len(opened) + len(excluded) == len(self.backends.keys() | excluded.keys())
        last_resort = frozenset([name for name in opened if is_last and states[name].serves])
        excluded.update((name, _OPEN) for name in opened if name not in last_resort)
        return last_resort

    def _tag_reason(self, tags: Iterable[str], location: Location) -> str:
        for tag in sorted(tags):
            allow = self.tags[tag].allow
            if location not in allow:
                where = f"only {' and '.join(sorted(allow))}" if allow else "no location"
                return f"tag {tag} allows {where}"
        return f"no tag set allows {location}"

    def _ordered(
        self, rule: Rule | None, request: RequestMetadata, signals: Signals, excluded: Mapping[str, str]
    ) -> tuple[str, ...]:
        names = rule.targets if rule is not None else tuple(self.backends)
        if rule is not None and rule.kind == "rank":
            left = [name for name in names if name not in excluded]
            scores = rank_scores(rule.weights, request, signals.backends, left)
            return tuple(sorted(left, key=scores.__getitem__))
        return tuple([name for name in names if name not in excluded])

    @cached_property
    def _probes(self) -> tuple[_Probe, ...]:
        """The parts of the rules, compiled when a decision is first explained."""
        return tuple(_probe(rule, self.schema) for rule in self.rules)

    def _replay(self, request: RequestMetadata, signals: Signals) -> tuple[RuleTrace, ...]:
        """What each rule saw: all hard rules, and the rules that order up to the first that matched.

        The values are those of the fields, then the sub-conditions that held, as written; never a text of the prompt.
        """
        traces: list[RuleTrace] = []
        ordered = False
        for probe in self._probes:
            orders = probe.rule.kind != "exclude"
            if not (orders and ordered):
                traces.append(_trace(probe, request, signals))
                ordered = ordered or (orders and traces[-1].matched)
        return tuple(traces)


def _unfit(state: BackendState | None, location: Location) -> str:
    """Why a backend cannot take a request now; empty where it can."""
    if state is None:
        return "its state is unknown"
    if state.location is not location:
        return f"it runs on {state.location}, the policy was checked for {location}"
    return "" if state.ready else state.reason or "it is not ready"


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
    held = f"{rule.because} ({rule.label})"
    failed = f"this could not be evaluated, so it is excluded: {held}"
    hooks = (partial(_exclude, rule.targets, reason) for reason in (held, failed))
    return Step(rule.index, rule.condition, *hooks)


def _exclude(targets: tuple[str, ...], reason: str, excluded: MutableMapping[str, str]) -> None:
    for name in targets:
        excluded.setdefault(name, reason)


def rank_scores(
    weights: Mapping[str, float], request: RequestMetadata, states: Mapping[str, BackendState], names: Iterable[str]
) -> dict[str, float]:
    """The weighted sum of latency (ms), cost (per request), energy (J) and missing quality of each backend.

    The smallest is best. A backend without a figure of its quality counts as one of quality 0: where none has one, that
    changes no order. A sum that is not a number counts as infinite, so that a backend with unknown values goes last.
    """
    return {name: _score(weights, request, states[name]) for name in names}


def _score(weights: Mapping[str, float], request: RequestMetadata, state: BackendState) -> float:
    try:
        thousands = (request.prompt_tokens + request.max_tokens) / 1000.0
        parts = {
            "latency": state.predicted_ttft_ms + state.predicted_tpot_ms * request.max_tokens,
            "cost": state.cost_per_1k_tokens * thousands,
            "energy": state.energy_per_1k_tokens_j * thousands,
            "quality": 1.0 - (0.0 if state.quality is None else state.quality),
        }
        total = math.fsum(weight * parts[name] for name, weight in weights.items() if weight)
    except (ArithmeticError, ValueError, TypeError):
        return math.inf
    return math.inf if math.isnan(total) else total


@dataclass(frozen=True, slots=True)
class _Probe:
    """A rule's compiled condition, the fields that it reads, and its sub-conditions as written."""

    rule: Rule
    condition: Expression | None
    fields: tuple[tuple[str, Expression], ...]
    parts: tuple[tuple[str, Expression], ...]


def _probe(rule: Rule, schema: Schema) -> _Probe:
    if rule.condition is None:
        return _Probe(rule, None, (), ())
    fields = {field.name: compile_expression(field, schema) for field in fields_of(rule.condition)}
    parts = {
        " ".join(rule.text[atom.start : atom.end].split()): compile_expression(atom, schema)
        for atom in atoms_of(rule.condition)
        if not isinstance(atom, Field)
    }
    return _Probe(rule, compile_expression(rule.condition, schema), tuple(fields.items()), tuple(parts.items()))


def _trace(probe: _Probe, request: RequestMetadata, signals: Signals) -> RuleTrace:
    rule = probe.rule
    if rule.kind == "exclude" and not rule.targets:
        return RuleTrace(rule=f"{rule.label} {rule.kind}", place=rule.place, matched=False, values=_NO_BACKEND)
    held = True if probe.condition is None else _value(probe.condition, request, signals)
    values = dict(_values(probe, request, signals))
    if held == _UNKNOWN:
        values["rule"] = _UNKNOWN
    return RuleTrace(
        rule=f"{rule.label} {rule.kind}",
        place=rule.place,
        matched=held is True or (held == _UNKNOWN and rule.kind == "exclude"),
        because=rule.because,
        condition=" ".join(rule.text.split()),
        values=tuple(values.items()),
    )


def _values(probe: _Probe, request: RequestMetadata, signals: Signals) -> Iterator[tuple[str, object]]:
    rule = probe.rule
    if rule.kind == "rank":
        known = [name for name in rule.targets if name in signals.backends]
        yield from rank_scores(rule.weights, request, signals.backends, known).items()
    for name, expression in probe.fields:
        value = _value(expression, request, signals)
        yield name, _ABSENT if value is None else value
    for text, part in probe.parts:
        if _value(part, request, signals) is True:
            yield text, True


def _value(expression: Expression, request: RequestMetadata, signals: Signals) -> object:
    try:
        return expression(request, signals)
    except Exception:  # noqa: BLE001 - as in compiled rules: signals can be anything
        return _UNKNOWN
