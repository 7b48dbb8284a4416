"""A checked rule, the scores of `rank`, and the trace of a decision, which is replayed on demand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from hybrid_llm.core.decision import RuleTrace
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import BackendState, Signals
from hybrid_llm.policies.language.compile import Expression, compile_expression
from hybrid_llm.policies.language.schema import Schema
from hybrid_llm.policies.language.types import Field, Node, atoms_of, fields_of


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


def rank_scores(
    weights: Mapping[str, float], request: RequestMetadata, states: Mapping[str, BackendState], names: Iterable[str]
) -> dict[str, float]:
    """The weighted sum of latency (ms), cost (per request) and energy (J) of each backend; the smallest is best.

    A sum that is not a number counts as infinite, so that a backend with unknown values goes last.
    """
    return {name: _score(weights, request, states[name]) for name in names}


def _score(weights: Mapping[str, float], request: RequestMetadata, state: BackendState) -> float:
    try:
        thousands = (request.prompt_tokens + request.max_tokens) / 1000.0
        parts = {
            "latency": state.predicted_ttft_ms + state.predicted_tpot_ms * request.max_tokens,
            "cost": state.cost_per_1k_tokens * thousands,
            "energy": state.energy_per_1k_tokens_j * thousands,
        }
        total = math.fsum(weight * parts[name] for name, weight in weights.items() if weight)
    except (ArithmeticError, ValueError, TypeError):
        return math.inf
    return math.inf if math.isnan(total) else total


_ABSENT: Final = "absent"
_UNKNOWN: Final = "cannot be evaluated"
_NO_BACKEND: Final = (("backend", "no backend has this name here"),)


@dataclass(frozen=True, slots=True)
class _Probe:
    """A rule's compiled condition, the fields that it reads, and its sub-conditions as written."""

    rule: Rule
    condition: Expression | None
    fields: tuple[tuple[str, Expression], ...]
    parts: tuple[tuple[str, Expression], ...]


class Replayer:
    """Reports what each rule of a policy saw. The parts of the rules are compiled on first use."""

    def __init__(self, rules: tuple[Rule, ...], schema: Schema) -> None:
        self._rules = rules
        self._schema = schema

    @cached_property
    def _probes(self) -> tuple[_Probe, ...]:
        return tuple(_probe(rule, self._schema) for rule in self._rules)

    def replay(self, request: RequestMetadata, signals: Signals) -> tuple[RuleTrace, ...]:
        """What each rule saw: all hard rules, and the rules that order up to the first that matched.

        The values are those of the fields, then the sub-conditions that held, as written; never a text of the prompt.
        """
        traces: list[RuleTrace] = []
        ordered = False
        for probe in self._probes:
            if probe.rule.kind != "exclude" and ordered:
                continue
            trace = _trace(probe, request, signals)
            ordered = ordered or (probe.rule.kind != "exclude" and trace.matched)
            traces.append(trace)
        return tuple(traces)


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
