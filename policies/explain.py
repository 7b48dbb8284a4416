"""Replays a decision on demand: what each rule saw, and which of its sub-conditions held. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from hybrid_llm.policies.compile import Expression, compile_expression
from hybrid_llm.policies.nodes import Field, atoms_of, fields_of
from hybrid_llm.policies.rules import Rule, rank_scores
from hybrid_llm.policies.schema import Schema
from hybrid_llm.router.signals import Signals
from hybrid_llm.router.types import Request, RuleTrace

__all__ = ["Replayer"]

ABSENT = "absent"
UNKNOWN = "cannot be judged"
NOBODY = (("backend", "there is none of this name here"),)


@dataclass(frozen=True, slots=True)
class _Probe:
    """A rule taken apart: its condition, the fields that it reads, and its sub-conditions as written."""

    rule: Rule
    condition: Expression | None
    fields: tuple[tuple[str, Expression], ...]
    parts: tuple[tuple[str, Expression], ...]


class Replayer:
    """Tells what each rule of a policy saw. The parts of the rules are compiled when the first one asks."""

    def __init__(self, rules: tuple[Rule, ...], schema: Schema) -> None:
        self._rules = rules
        self._schema = schema

    @cached_property
    def _probes(self) -> tuple[_Probe, ...]:
        return tuple(_probe(rule, self._schema) for rule in self._rules)

    def replay(self, request: Request, signals: Signals) -> tuple[RuleTrace, ...]:
        """What each rule saw. Rules that order are told up to the first that matched; hard rules all.

        The values are those of the fields, and then the sub-conditions that held, as written; never a text of the
        prompt.
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


def _trace(probe: _Probe, request: Request, signals: Signals) -> RuleTrace:
    rule = probe.rule
    if rule.kind == "exclude" and not rule.targets:
        return RuleTrace(rule=f"{rule.label} {rule.kind}", place=rule.place, matched=False, values=NOBODY)
    held = True if probe.condition is None else _value(probe.condition, request, signals)
    values = dict(_values(probe, request, signals))
    if held == UNKNOWN:
        values["rule"] = UNKNOWN
    return RuleTrace(
        rule=f"{rule.label} {rule.kind}",
        place=rule.place,
        matched=held is True or (held == UNKNOWN and rule.kind == "exclude"),
        because=rule.because,
        values=tuple(values.items()),
    )


def _values(probe: _Probe, request: Request, signals: Signals) -> Iterator[tuple[str, object]]:
    rule = probe.rule
    if rule.kind == "rank":
        known = [name for name in rule.targets if name in signals.backends]
        yield from rank_scores(rule.weights, request, signals.backends, known).items()
    for name, field in probe.fields:
        value = _value(field, request, signals)
        yield name, ABSENT if value is None else value
    for text, part in probe.parts:
        if _value(part, request, signals) is True:
            yield text, True


def _value(expression: Expression, request: Request, signals: Signals) -> object:
    try:
        return expression(request, signals)
    except Exception:  # noqa: BLE001 - the same net as the compiled rules have: sensors may hand in anything
        return UNKNOWN
