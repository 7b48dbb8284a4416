"""Reads the cases beside a policy, `clinic.test.yaml`, as strictly as the policy itself; it runs none of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from hybrid_llm.core.request import Location, Message, Request, Tool
from hybrid_llm.core.signals import BackendState, BudgetSignals, DeviceSignals, Signals
from hybrid_llm.lab.cases import Case, Expected, Suite
from hybrid_llm.policies.document import read_keys, read_names
from hybrid_llm.policies.language.schema import FieldSpec, Schema
from hybrid_llm.policies.policy import Policy
from hybrid_llm.policies.reader import yamltext
from hybrid_llm.policies.reader.quantities import DURATION, NUMBER, PERCENT, SECONDS, Values
from hybrid_llm.policies.reader.source import Faults, Source, did_you_mean
from hybrid_llm.policies.reader.yamltext import Scalar, Sequence, Value, read_yaml

PolicyFor = Callable[[Mapping[str, Location] | None], Policy]
"""Loads the policy for the backends that the file names; None where it names none."""

CASE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "a file of cases": ("version", "backends", "base", "cases"),
    "base": ("request", "signals"),
    "a case": ("name", "request", "signals", "expect"),
    "expect": ("order", "first", "never", "excluded", "rule", "tags"),
}
"""The groups of the file and the keys that each may have."""

ABSENT: Final = "absent"
FIXED: Final = frozenset({"name", "location"})
WORLD: Final = ("device", "network", "budget")
"""The owners of signals that are no backends."""
DEVICE_AT_EASE: Final = DeviceSignals(cpu_load=0.2, memory_available_mb=4096.0, memory_total_mb=8192.0)
BACKENDS_AT_EASE: Final = {
    state.location: state
    for state in (
        BackendState(
            name="",
            location=Location.EDGE,
            context_window=4096,
            predicted_ttft_ms=150.0,
            predicted_tpot_ms=20.0,
        ),
        BackendState(
            name="",
            location=Location.CLOUD,
            context_window=32768,
            rtt_ms=40.0,
            predicted_ttft_ms=300.0,
            predicted_tpot_ms=10.0,
        ),
    )
}
"""What holds where a case says nothing: a device without a battery, online, at ease, and backends that are ready."""

_SIGNED = re.compile(f"-?{NUMBER.pattern}")
_UNITS = {"ms": (DURATION, "or a duration such as 400ms"), "share": (PERCENT, "or a percentage such as 20%")}


def at_ease(policy: Policy) -> Signals:
    """The signals of a case that gives none."""
    states = {name: replace(BACKENDS_AT_EASE[place], name=name) for name, place in policy.backends.items()}
    return Signals(device=DEVICE_AT_EASE, budget=BudgetSignals(left=policy.objectives.budget), backends=states)


def parse_cases(text: str, path: str, policy_for: PolicyFor) -> Suite:
    """The cases in *text*; *path* names it in errors.

    Raises:
        PolicyError: the cases or the policy are wrong; `.errors` has every fault of the one file.
    """
    faults = Faults(Source(text, path), "the file of cases")
    root = read_yaml(text, faults)
    if root is None:
        faults.check()
        raise AssertionError("a text that cannot be read has a fault")
    keys = read_keys(root, "a file of cases", CASE_KEYS["a file of cases"], faults)
    version = keys.get("version")
    if not isinstance(version, Scalar) or version.text != "1" or not version.plain:
        faults.add("this version reads cases of version 1", (version or root).offset, "begin with `version: 1`")
    backends = _backends(keys.get("backends"), faults)
    faults.check()
    policy = policy_for(backends)
    suite = _Reader(policy, Source(text, path), faults).suite(keys, root.offset)
    faults.check()
    return suite


def _backends(value: Value | None, faults: Faults) -> Mapping[str, Location] | None:
    if value is None:
        return None
    if not isinstance(value, yamltext.Mapping) or not value.entries:
        faults.add("`backends` must be a group: {phone: edge, eu: cloud}", value.offset)
        return None
    values, found = Values(faults), {}
    for entry in value.entries:
        place = values.text(entry.value, "a location")
        if place is not None and place not in set(Location):
            faults.add(f"`{place}` is not a location", entry.value.offset, did_you_mean(place, Location))
        elif place is not None:
            found[entry.key.text] = Location(place)
    return found


class _Reader:
    """Turns the groups of the file into cases; a case starts from `base`, and that from `at_ease`."""

    def __init__(self, policy: Policy, source: Source, faults: Faults) -> None:
        self._policy = policy
        self._source = source
        self._faults = faults
        self._values = Values(faults)
        self._schema = Schema(policy.backends, policy.objectives)

    def suite(self, keys: Mapping[str, Value], offset: int) -> Suite:
        base = self._group(keys, "base")
        request, signals = self._request(base, {}), self._signals(base, at_ease(self._policy))
        cases = keys.get("cases")
        if not isinstance(cases, Sequence) or not cases.items:
            where = cases.offset if cases is not None else offset
            self._faults.add("`cases` must be a list: each case begins with a dash", where)
            return Suite(policy=self._policy, cases=())
        return Suite(
            policy=self._policy,
            cases=tuple(self._case(item, request, signals) for item in cases.items),
        )

    def _group(self, keys: Mapping[str, Value], name: str) -> Mapping[str, Value]:
        return read_keys(keys[name], name, CASE_KEYS[name], self._faults) if name in keys else {}

    def _case(self, item: Value, base: Mapping[str, object], signals: Signals) -> Case:
        keys = read_keys(item, "a case", CASE_KEYS["a case"], self._faults)
        for needed, hint in (("name", "name: what must happen"), ("expect", "expect: {order: [edge, cloud]}")):
            if needed not in keys:
                self._faults.add(f"a case needs `{needed}`", item.offset, hint)
        name = self._values.text(keys["name"], "the name of a case") if "name" in keys else None
        return Case(
            name=name or "",
            place=self._source.label(item.offset),
            request=self._made(self._request(keys, base)),
            signals=self._signals(keys, signals),
            expected=self._expected(keys),
        )

    def _request(self, keys: Mapping[str, Value], base: Mapping[str, object]) -> Mapping[str, object]:
        """What is said of the request: the fields that conditions read under `request.`, and its text."""
        if "request" not in keys:
            return base
        fields = self._schema.fields("request")
        found = read_keys(keys["request"], "request", ("text", *fields), self._faults)
        read = {name: self._field(value, fields[name]) for name, value in found.items() if name in fields}
        if "text" in found:
            read["text"] = self._values.text(found["text"], "a text")
        if "tags" in found:
            read["tags"] = frozenset(self._names(found["tags"], "a declared tag", self._policy.tags))
        return {**base, **read}

    def _made(self, said: Mapping[str, Any]) -> Request:
        deadline = self._policy.objectives.deadline_s or 60.0
        text = Message(role="user", content=said.get("text") or "")
        further = (Message(role="user", content=""),) * ((said.get("message_count") or 1) - 1)
        return Request(
            messages=(text, *further),
            task=said.get("task") or "chat",
            privacy=said.get("tags", frozenset()),
            prompt_tokens=said.get("prompt_tokens", 0 if text.content else 100),
            max_tokens=said.get("max_tokens", 100),
            deadline=(said.get("deadline_ms") or deadline * 1e3) / 1e3,
            tenant=said.get("tenant"),
            tools=(Tool(name="", parameters=""),) if said.get("has_tools") else (),
            output_schema="" if said.get("has_schema") else None,
        )

    def _signals(self, keys: Mapping[str, Value], signals: Signals) -> Signals:
        group = keys.get("signals")
        if group is None:
            return signals
        if not isinstance(group, yamltext.Mapping):
            self._faults.add("`signals` must be a group: {device.battery: 10%, cloud.ready: false}", group.offset)
            return signals
        for entry in group.entries:
            spec = self._spec(entry.key)
            if spec is not None:
                signals = _amended(signals, spec, self._field(entry.value, spec))
        return signals

    def _spec(self, key: Scalar) -> FieldSpec | None:
        """The signal that a key such as `device.battery` names."""
        owner, _, name = key.text.rpartition(".")
        owners = [root for root in self._schema.roots if root in WORLD or self._is_backend(root)]
        if owner not in owners:
            self._faults.add(f"there is no signal of `{owner or name}`", key.offset, did_you_mean(owner, owners))
            return None
        known = [field for field in self._schema.fields(owner) if field not in FIXED]
        if name not in known:
            offset = key.at(len(owner) + 1)
            self._faults.add(f"`{owner}` has no signal `{name}`", offset, did_you_mean(name, known))
            return None
        return self._schema.fields(owner)[name]

    def _is_backend(self, root: str) -> bool:
        fields = self._schema.fields(root)
        return "ready" in fields and fields["ready"].owner in self._policy.backends

    def _field(self, value: Value, spec: FieldSpec) -> object:
        """A value in the type that conditions see; None where it is absent or wrong."""
        if spec.optional and isinstance(value, Scalar) and value.text == ABSENT:
            return None
        match spec.type.kind:
            case "bool":
                return self._values.flag(value)
            case "int":
                return self._values.integer(value, 0, 10**9 - 1)
            case "double":
                return self._double(value, spec)
            case "string":
                return self._text(value, spec)
            case _:
                return None

    def _text(self, value: Value, spec: FieldSpec) -> str | None:
        text = self._values.text(value, f"a value of `{spec.attribute}`")
        if text is not None and spec.values and text not in spec.values:
            self._faults.add(f"`{text}` is not a value here", value.offset, did_you_mean(text, spec.values))
        return text

    def _double(self, value: Value, spec: FieldSpec) -> float | None:
        pattern, also = _UNITS.get("share" if spec.type.unit == "percent" else spec.type.unit, (None, ""))
        scalar = self._values.scalar(value, f"a number {also}".strip())
        if scalar is None:
            return None
        match = pattern.fullmatch(scalar.text) if pattern else None
        if match is not None:
            return float(match[1]) * _scale(spec.type.unit, match[0].removeprefix(match[1]))
        if scalar.text == "nan" or (scalar.plain and _SIGNED.fullmatch(scalar.text)):
            return math.nan if scalar.text == "nan" else float(scalar.text)
        hint = f"write `{ABSENT}` for a device that has none" if spec.optional else None
        self._faults.add(f"`{scalar.text}` is not a number {also}".rstrip(), value.offset, hint)
        return None

    def _expected(self, keys: Mapping[str, Value]) -> Expected:
        found = self._group(keys, "expect")
        if "expect" in keys and not found:
            self._faults.add("a case expects something", keys["expect"].offset, "order: [edge, cloud]")
        order = found.get("order")
        first = Sequence((found["first"],), 0) if "first" in found else None
        tags = found.get("tags")
        return Expected(
            order=self._targets(order) if order is not None else None,
            first=self._targets(first),
            never=self._targets(found.get("never")),
            excluded=self._excluded(found.get("excluded")),
            rule=self._rule(found["rule"]) if "rule" in found else "",
            tags=None if tags is None else frozenset(self._names(tags, "a declared tag", self._policy.tags)),
        )

    def _names(self, value: Value, what: str, known: Iterable[str]) -> list[str]:
        return read_names(value, what, known, self._faults)

    def _targets(self, value: Value | None) -> tuple[str, ...]:
        """Backends; a location stands for its backends, as in a policy."""
        places = self._policy.backends
        known = {place.value: place for place in Location} | dict(places)
        found: list[str] = []
        for name in self._names(value, "a backend or a location", known) if value is not None else ():
            found += [name] if name in places else [other for other, place in places.items() if place == name]
        return tuple(found)

    def _excluded(self, value: Value | None) -> Mapping[str, str]:
        if not isinstance(value, yamltext.Mapping):
            return dict.fromkeys(self._targets(value), "")
        parts = {}
        for entry in value.entries:
            part = self._values.text(entry.value, "a part of the reason")
            for name in self._targets(Sequence((entry.key,), entry.key.offset)):
                parts[name] = part or ""
        return parts

    def _rule(self, value: Value) -> str:
        """The label of the rule that orders, which is given by its number, its reason, or `default`."""
        scalar = self._values.scalar(value, "the number or the reason of a rule that orders")
        if scalar is None or scalar.text == "default":
            return "default"
        orders = {rule.label: rule for rule in self._policy.rules if rule.kind != "exclude"}
        by_name = {**{str(rule.index): label for label, rule in orders.items()}}
        by_name.update({rule.because: label for label, rule in orders.items()})
        if scalar.text not in by_name:
            hint = did_you_mean(scalar.text, ["default", *by_name])
            self._faults.add(f"no rule that orders is `{scalar.text}`", value.offset, hint)
        return by_name.get(scalar.text, "default")


def _scale(unit: str, suffix: str) -> float:
    if unit == "ms":
        return SECONDS[suffix] * 1e3
    return 1.0 if unit == "percent" else 0.01


def _amended(signals: Signals, spec: FieldSpec, value: Any) -> Signals:
    if spec.root in WORLD:
        return replace(signals, **{spec.root: replace(getattr(signals, spec.root), **{spec.attribute: value})})
    states = dict(signals.backends)
    states[spec.owner] = replace(states[spec.owner], **{spec.attribute: value})
    return replace(signals, backends=states)
