"""The keys of the cases beside a policy, `clinic.test.yaml`, read as strictly as the policy. `cases` runs them."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from hybrid_llm.core import fields
from hybrid_llm.core.fields import Found, Key, Kind, ListOf, MapOf, Table, Text, key, one_of
from hybrid_llm.core.limits import DEADLINE_S, DEFAULT_DEADLINE_S, MAX_TOKENS
from hybrid_llm.core.request import Location, Message, Request, Tool
from hybrid_llm.core.signals import BackendState, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies.document import LOCATION, TARGET, backends_named
from hybrid_llm.policies.language.schema import FieldSpec, Objectives, Schema
from hybrid_llm.policies.policy import Policy
from hybrid_llm.policies.reader.fields import Reader, read_document
from hybrid_llm.policies.reader.schemas import Json, json_schema, schema_of
from hybrid_llm.policies.reader.source import Faults, did_you_mean
from hybrid_llm.policies.reader.yamltext import Mapping as Entries
from hybrid_llm.policies.reader.yamltext import read_yaml

PolicyFor = Callable[[Mapping[str, Location] | None], Policy]
"""Loads the policy for the backends that the file names; None where it names none."""

DEFAULT_DEVICE: Final = DeviceSignals(cpu_load=0.2, memory_available_mb=4096.0, memory_total_mb=8192.0)
DEFAULT_BACKENDS: Final = {
    Location.EDGE: BackendState(
        name="", location=Location.EDGE, context_window=4096, predicted_ttft_ms=150.0, predicted_tpot_ms=20.0
    ),
    Location.CLOUD: BackendState(
        name="",
        location=Location.CLOUD,
        context_window=32768,
        rtt_ms=40.0,
        predicted_ttft_ms=300.0,
        predicted_tpot_ms=10.0,
    ),
}
"""The signals of a case that sets none: an idle device without a battery, online, and backends that are ready."""

_ABSENT: Final = fields.Choice({"absent": None})
_NAN: Final = fields.Choice({"nan": math.nan})
_DEADLINE: Final = (DEADLINE_S.least * 1e3, DEADLINE_S.most * 1e3)
_LIMITED: Final[Mapping[str, Kind]] = {
    "deadline_ms": one_of(fields.Number(*_DEADLINE), fields.duration("ms", *_DEADLINE)),
    "max_tokens": MAX_TOKENS,
    "message_count": fields.Whole(1),
}
"""What a call limits, a case cannot exceed."""
_UNITS: Final = {
    "ms": fields.duration("ms", positive=False),
    "share": fields.percentage(most=math.inf),
    "percent": fields.percentage(100.0, most=math.inf),
}
_FIXED: Final = frozenset({"name", "location"})
"""Fields of a backend that a case cannot change."""
_RECORDS: Final = {"device": DeviceSignals, "network": NetworkSignals, "budget": BudgetSignals}
"""The owners of signals that are no backends."""
_TAG: Final = fields.Name("a declared tag")
_TAGS: Final = ListOf(_TAG, into=frozenset)
_TARGETS: Final = ListOf(TARGET)
_LOCATIONS: Final[Mapping[str, Location]] = {location.value: location for location in Location}
_BACKENDS: Final = MapOf(LOCATION, least=1)
_REQUEST: Final = {
    "deadline_ms": "The deadline that the app sets.",
    "tags": "The effective privacy tags.",
    "message_count": "How many messages there are.",
    "tools": "How many tools the request offers.",
    "has_tools": "The request offers tools.",
    "has_schema": "The answer must follow a JSON Schema.",
    "prompt_tokens": "Tokens of the prompt.",
    "max_tokens": "Maximum tokens of the answer.",
    "task": "What the app calls the request, such as chat.",
    "tenant": "The tenant to bill.",
}


def default_signals(policy: Policy) -> Signals:
    """The signals of a case that sets none."""
    states = {name: replace(DEFAULT_BACKENDS[location], name=name) for name, location in policy.backends.items()}
    return Signals(device=DEFAULT_DEVICE, budget=BudgetSignals(left=policy.objectives.budget), backends=states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What must come of it."""

    order: tuple[str, ...] | None = key(
        _TARGETS, "Exactly these backends, in this order; [] is none.", default=None, examples=(["edge", "cloud"],)
    )
    first: tuple[str, ...] = key(TARGET, "The backend that is called first.", default=(), examples=("edge",))
    """Of a location, each of its backends."""
    never: tuple[str, ...] = key(_TARGETS, "Backends that may not be called at all.", default=(), examples=(["cloud"],))
    excluded: Mapping[str, str] = key(
        one_of(MapOf(Text("a part of the reason"), name=TARGET), _TARGETS),
        "Backends that are excluded, each with a part of the reason.",
        default=(),
        examples=(["cloud"],),
    )
    rule: str = key(
        one_of(fields.Whole(), Text("the reason of a rule")),
        "The rule that orders: its number, its `because`, or `default`.",
        default="",
    )
    """Its label, such as `rules[3]` or `default`; empty for any."""
    tags: frozenset[str] | None = key(_TAGS, "Exactly these effective tags.", default=None, examples=(["phi"],))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request in one situation. *position* is `path:line:column`."""

    name: str
    position: str
    request: Request
    signals: Signals
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The cases of one file, checked against *policy*."""

    policy: Policy
    cases: tuple[Case, ...]


def _as_found(found: Found) -> Found:
    """Leave the record to `_Maker`, which has the policy."""
    return found


def cases_table(schema: Schema, backends: Mapping[str, Location], *, others: bool = False) -> Table:
    """The keys of a file of cases; signals are those of *backends*, and with *others* those under any other name."""
    situation = (
        Key("request", _request_table(schema), "The request."),
        Key("signals", _signals_table(schema, backends, others=others), "The signals, under the names of conditions."),
    )
    expect = fields.table(Expected, "expect", make=_as_found, json={"minProperties": 1})
    case = (
        Key("name", Text("a name"), "What must happen.", required=True, hint="name: what must happen"),
        *situation,
        Key("expect", expect, expect.about, required=True, hint="expect: {order: [edge, cloud]}"),
    )
    base = _table("base", "Applies to every case that does not override it.", situation)
    cases = ListOf(_table("a case", "One request in one situation, and what must come of it.", case), least=1)
    keys = (
        fields.VERSION,
        Key("backends", _BACKENDS, "The backends and where they run; by default edge and cloud."),
        Key("base", base, base.about),
        Key("cases", cases, "The cases.", required=True, hint="each case begins with a dash"),
    )
    return _table("a file of cases", "What the policy beside this file must decide.", keys)


def _table(title: str, about: str, keys: tuple[Key, ...], json: Json | None = None) -> Table:
    return Table(title=title, about=about, keys=keys, make=_as_found, json=json)


def _request_table(schema: Schema) -> Table:
    known = schema.fields("request")
    kinds = {name: _kind(spec) for name, spec in known.items()} | {"tags": _TAGS, **_LIMITED}
    example = "Patient 77-1234 has a fever."
    text = Key("text", Text(), "A text in which the detectors find the tags.", examples=(example,))
    return _table("request", "The request.", (*(Key(name, kinds[name], _REQUEST[name]) for name in known), text))


def _signals_table(schema: Schema, backends: Mapping[str, Location], *, others: bool) -> Table:
    about = {root: _documented(record) for root, record in _RECORDS.items()}
    state = _documented(BackendState)
    keys = tuple(
        Key(name, _kind(spec), about.get(spec.root, state)[spec.attribute])
        for name, spec in signals_of(schema, backends).items()
    )
    known = {name: spec for name, spec in schema.fields(next(iter(_LOCATIONS))).items() if name not in _FIXED}
    patterns = {rf"^[^.\s]+\.{name}$": schema_of(_kind(spec)) for name, spec in known.items()} if others else {}
    about_all = "What is known of the device, the network and the backends, under the names of conditions."
    return _table("signals", about_all, keys, {"patternProperties": patterns} if patterns else None)


def signals_of(schema: Schema, backends: Mapping[str, Location]) -> dict[str, FieldSpec]:
    """The signals that a case can set, by name: those of the world, and those of each backend."""
    owners = [root for root in schema.roots if root in _RECORDS]
    owners += [root for root in schema.roots if (spec := schema.fields(root).get("ready")) and spec.owner in backends]
    return {
        f"{owner}.{name}": spec for owner in owners for name, spec in schema.fields(owner).items() if name not in _FIXED
    }


def _kind(spec: FieldSpec) -> Kind:
    """What a value of *spec* may be."""
    kinds: list[Kind]
    match spec.type.kind:
        case "bool":
            kinds = [fields.Flag()]
        case "int":
            kinds = [fields.Whole()]
        case "double":
            unit = _UNITS.get(spec.type.unit)
            kinds = [fields.Number(-math.inf), *([unit] if unit else []), _NAN]
        case _:
            kinds = [fields.Choice.of(*sorted(spec.values)) if spec.values else Text()]
    return one_of(*kinds, *([_ABSENT] if spec.optional else []))


def _documented(record: type) -> dict[str, str]:
    """The fields of *record* and the texts that stand under them in its source."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for item, text in itertools.pairwise(body.body):
        if isinstance(item, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(item.target, ast.Name)
            found[item.target.id] = " ".join(str(text.value.value).split())
    return found


def cases_schema(backends: Mapping[str, Location] | None = None) -> Json:
    """The JSON Schema of a file of cases; signals are those of *backends*, else of backends of any name."""
    known = backends or _LOCATIONS
    return json_schema(
        cases_table(Schema(known, Objectives()), known, others=backends is None),
        "Cases of a policy of hybrid-llm",
        "hybrid-llm policy schema --cases",
        names={TARGET.words: {*known, *_LOCATIONS}} if backends else None,
    )


def parse_cases(text: str, path: str, policy_for: PolicyFor) -> Suite:
    """The cases in *text*; *path* names it in errors.

    Raises:
        PolicyError: the cases or the policy are wrong; `.errors` has everything that is wrong with the one file.
    """
    faults = Faults(text, path, "the file of cases")
    policy = policy_for(_backends(text, faults))
    schema = Schema(policy.backends, policy.objectives)
    names = {_TAG.words: policy.tags, TARGET.words: {*policy.backends, *_LOCATIONS}}
    found = read_document(text, cases_table(schema, policy.backends), faults, names)
    maker = _Maker(policy, schema, faults)
    cases = [maker.case(case, found.values["base"]) for case in found.values["cases"]] if found is not None else ()
    faults.check()
    return Suite(policy=policy, cases=tuple(cases))


def _backends(text: str, faults: Faults) -> Mapping[str, Location] | None:
    """The backends that the file names; they are read first, because the policy is loaded for them."""
    root = read_yaml(text, faults)
    value = root.get("backends") if isinstance(root, Entries) else None
    found = Reader(faults).read(_BACKENDS, value, "`backends`") if value is not None else None
    faults.check()
    return found


class _Maker:
    """Makes cases of what was read; a case starts from `base`, and that from `default_signals`."""

    def __init__(self, policy: Policy, schema: Schema, faults: Faults) -> None:
        self._policy = policy
        self._faults = faults
        self._specs = signals_of(schema, policy.backends)

    def case(self, found: Found, base: Found | None) -> Case:
        situations = [part.values for part in (base, found) if part is not None]
        request = _merged(situation["request"] for situation in situations)
        signals = default_signals(self._policy)
        for name, value in _merged(situation["signals"] for situation in situations).items():
            signals = amended(signals, self._specs[name], value)
        return Case(
            name=found.values["name"],
            position=self._faults.label(found.offset),
            request=self._request(request),
            signals=signals,
            expected=self._expected(found.values["expect"]),
        )

    def _request(self, set_: Mapping[str, Any]) -> Request:
        deadline_ms = set_.get("deadline_ms") or (self._policy.objectives.deadline_s or DEFAULT_DEADLINE_S) * 1e3
        text = Message(role="user", content=set_.get("text") or "")
        further = (Message(role="user", content=""),) * ((set_.get("message_count") or 1) - 1)
        return Request(
            messages=(text, *further),
            task=set_.get("task") or "chat",
            privacy=set_.get("tags", frozenset()),
            prompt_tokens=set_.get("prompt_tokens", 0 if text.content else 100),
            max_tokens=set_.get("max_tokens", 100),
            deadline=deadline_ms / 1e3,
            tenant=set_.get("tenant"),
            tools=(Tool(name="", parameters=""),) * (set_.get("tools") or int(bool(set_.get("has_tools")))),
            output_schema="" if set_.get("has_schema") else None,
        )

    def _expected(self, found: Found | None) -> Expected:
        if found is None:
            return Expected()
        if not found.present:
            found.reject("a case needs an expectation", "order: [edge, cloud]")
        backends, values = self._policy.backends, found.values
        order, first, excluded = values["order"], values["first"], values["excluded"]
        reasons = excluded if isinstance(excluded, Mapping) else dict.fromkeys(excluded, "")
        return Expected(
            order=None if order is None else backends_named(order, backends),
            first=backends_named([first] if first else (), backends),
            never=backends_named(values["never"], backends),
            excluded={name: part for target, part in reasons.items() for name in backends_named([target], backends)},
            rule=self._rule(found),
            tags=values["tags"],
        )

    def _rule(self, found: Found) -> str:
        """The label of the rule that orders, which is given by its number, its reason, or `default`."""
        rule = found.values["rule"]
        if rule == "":
            return ""
        orders = [rule for rule in self._policy.rules if rule.kind != "exclude"]
        labels = {**{str(rule.index): rule.label for rule in orders}, **{rule.because: rule.label for rule in orders}}
        labels["default"] = "default"
        if str(rule) not in labels:
            found.reject(f"no `prefer` or `rank` rule is `{rule}`", did_you_mean(str(rule), labels), "rule")
        return labels.get(str(rule), "")


def _merged(parts: Iterable[Found | None]) -> dict[str, Any]:
    """What is set in *parts*; the later one counts."""
    return {name: part.values[name] for part in parts if part is not None for name in part.present}


def amended(signals: Signals, spec: FieldSpec, value: Any) -> Signals:
    """*signals* with *value* as the signal of *spec*."""
    if spec.root in _RECORDS:
        return replace(signals, **{spec.root: replace(getattr(signals, spec.root), **{spec.attribute: value})})
    states = dict(signals.backends)
    states[spec.owner] = replace(states[spec.owner], **{spec.attribute: value})
    return replace(signals, backends=states)
