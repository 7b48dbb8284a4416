"""From YAML to the records of a policy: the vocabulary of the file, key by key; conditions stay text here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hybrid_llm.core.request import Location
from hybrid_llm.policies.language.schema import Objectives
from hybrid_llm.policies.reader import yamltext
from hybrid_llm.policies.reader.quantities import Values
from hybrid_llm.policies.reader.source import Faults, did_you_mean
from hybrid_llm.policies.reader.yamltext import Scalar, Sequence, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRule:
    """A privacy tag: where a request that carries it may go and in which form, and the detectors that set it."""

    allow: frozenset[Location]
    detect: tuple[str, ...] = ()
    pseudonymise: bool = False
    """`to_cloud: pseudonymise`: what the detectors find is replaced before the request goes to the cloud."""
    cache: frozenset[Location] = frozenset()
    """Where an answer to such a request may be kept; by default wherever the request may go as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resilience:
    """What may be tried when a backend fails; never more than the tags and hard rules allow."""

    retries: int = 2
    """Further attempts after the first."""
    retry_budget: float = 0.1
    """Share of the requests that may be retried or hedged on top of them, over time."""
    hedge_after_s: float | None = None
    """Ask the next backend too after this many seconds without a first token; None never does."""
    hedge_quantile: float | None = None
    """The same, after the time that this share of the backend's own answers began within: 0.95 for `p95`."""
    continue_streams: bool = False
    """Let the next backend continue an answer that broke off."""
    breaker_failures: int = 5
    """Failures in a row that open a backend's circuit breaker."""
    breaker_open_s: float = 30.0
    """Seconds until an open breaker lets one request through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDraft:
    """A rule as read: *kind* is exclude, prefer or rank; *targets* are names of backends, locations resolved."""

    index: int
    kind: str
    offset: int
    targets: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    when: Scalar | None = None
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Everything that a policy file says."""

    name: str
    version: int
    tags: Mapping[str, TagRule]
    objectives: Objectives
    rules: tuple[RuleDraft, ...]
    resilience: Resilience


_NOT_YET = {
    "policy": {"budgets", "include", "cases"},
    "a tag": {"to_edge"},
    "objectives": {"quality"},
    "a rule": {"share", "tenant", "until"},
    "rank": {"quality"},
    "resilience": {"retry_on"},
}
"""Keys that a later version has: refused by name here, so that nobody takes them to be in force."""

KINDS = ("exclude", "prefer", "rank")
"""What a rule may be; each has exactly one of these keys."""

KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "policy": ("version", "name", "tags", "objectives", "rules", "resilience"),
        "a tag": ("allow", "to_cloud", "detect", "cache"),
        "objectives": ("ttft", "tpot", "deadline", "cost", "budget"),
        "a rule": (*KINDS, "when", "because"),
        "rank": ("latency", "cost", "energy"),
        "resilience": ("retries", "retry_budget", "hedge_after", "continue_streams", "breaker"),
        "breaker": ("failures", "open"),
    }
)
"""The groups of a policy file and the keys that each may have; the schema for editors is made from it."""

LIMITS: Mapping[str, tuple[int, int]] = MappingProxyType({"retries": (0, 10), "failures": (1, 1000)})
"""The keys that hold a whole number -> the least and the most that it may be."""
PERCENTILE = re.compile(r"p([5-9][0-9])")
"""A percentile from the 50th, as `hedge_after` takes it."""
FORMS = ("pseudonymise",)
"""In what form a request may go, other than as it is."""


def read_keys(value: Value, where: str, allowed: tuple[str, ...], faults: Faults) -> dict[str, Value]:
    """The entries of a group of keys; unknown ones are told and left out. *where* names the group in messages."""
    if not isinstance(value, yamltext.Mapping):
        faults.add(f"{where} must be a group of keys: {', '.join(allowed)}", value.offset)
        return {}
    found: dict[str, Value] = {}
    for entry in value.entries:
        key = entry.key.text
        if key in allowed:
            found[key] = entry.value
        elif key in _NOT_YET.get(where, ()):
            hint = "remove it: a policy never holds a key that is not in force"
            faults.add(f"`{key}` is not available in this version", entry.key.offset, hint)
        else:
            faults.add(f"{where} has no key `{key}`", entry.key.offset, did_you_mean(key, allowed))
    return found


def read_names(value: Value | None, what: str, known: Iterable[str], faults: Faults) -> list[str]:
    """A list of names out of *known*, each once; *what* names an item in messages."""
    if value is None:
        return []
    if not isinstance(value, Sequence):
        faults.add(f"expected is a list, each item {what}", value.offset, "write it in brackets: [edge]")
        return []
    values, choices, names = Values(faults), set(known), list[str]()
    for item in value.items:
        name = values.text(item, what)
        if name is None:
            continue
        if name not in choices:
            faults.add(f"`{name}` is not {what}", item.offset, did_you_mean(name, choices))
        elif name in names:
            faults.add(f"`{name}` is there twice", item.offset)
        else:
            names.append(name)
    return names


def read_document(root: Value, faults: Faults, backends: Mapping[str, Location], detectors: frozenset[str]) -> Document:
    """The records of the file; whatever is wrong goes to *faults*, and a neutral value takes its place."""
    return _Reader(faults, backends, detectors).document(root)


class _Reader:
    def __init__(self, faults: Faults, backends: Mapping[str, Location], detectors: frozenset[str]) -> None:
        self._faults = faults
        self._backends = backends
        self._detectors = detectors
        self._values = Values(faults)

    def document(self, root: Value) -> Document:
        keys = self._keys(root, "policy")
        self._version(keys, root.offset)
        name = self._values.text(keys["name"], "the name of the policy") if "name" in keys else None
        if "name" not in keys:
            self._faults.add("`name` is missing", root.offset, "name the policy: name: clinic")
        return Document(
            name=name or "",
            version=1,
            tags=MappingProxyType(self._tags(keys.get("tags"))),
            objectives=self._objectives(keys.get("objectives")),
            rules=self._rules(keys.get("rules")),
            resilience=self._resilience(keys.get("resilience")),
        )

    def _version(self, keys: Mapping[str, Value], offset: int) -> None:
        if "version" not in keys:
            self._faults.add("`version` is missing", offset, "write version: 1 at the top")
            return
        value = keys["version"]
        if not isinstance(value, Scalar) or not value.plain or value.text != "1":
            shown = f" {value.text}" if isinstance(value, Scalar) else ""
            self._faults.add(f"this version reads policies of version 1, not{shown or ' this'}", value.offset)

    def _keys(self, value: Value, where: str) -> dict[str, Value]:
        return read_keys(value, where, KEYS[where], self._faults)

    def _tags(self, value: Value | None) -> dict[str, TagRule]:
        if value is None:
            return {}
        if not isinstance(value, yamltext.Mapping):
            self._faults.add("`tags` must be a group of tags: public: {allow: [edge, cloud]}", value.offset)
            return {}
        tags: dict[str, TagRule] = {}
        for entry in value.entries:
            name = self._values.text(entry.key, "the name of a tag")
            rule = self._tag(entry)
            if name is not None:
                tags[name] = rule
        return tags

    def _tag(self, entry: yamltext.Entry) -> TagRule:
        keys = self._keys(entry.value, "a tag")
        if "allow" not in keys:
            hint = "say where such requests may go: allow: [edge]"
            self._faults.add(f"tag `{entry.key.text}` has no `allow`", entry.key.offset, hint)
        allow = self._locations(keys.get("allow"))
        detect = tuple(self._names(keys.get("detect"), "a detector", self._detectors))
        pseudonymise = self._pseudonymise(keys.get("to_cloud"), allow, detect)
        as_it_is = allow - {Location.CLOUD} if pseudonymise else allow
        cache = self._cache(keys["cache"], as_it_is) if "cache" in keys else as_it_is
        return TagRule(allow=allow, detect=detect, pseudonymise=pseudonymise, cache=cache)

    def _locations(self, value: Value | None) -> frozenset[Location]:
        return frozenset(map(Location, self._names(value, "a location", {place.value for place in Location})))

    def _pseudonymise(self, value: Value | None, allow: frozenset[Location], detect: tuple[str, ...]) -> bool:
        if value is None:
            return False
        name = self._values.text(value, "a form, `pseudonymise`")
        if name is not None and name != "pseudonymise":
            self._faults.add(f"`{name}` is not a form", value.offset, did_you_mean(name, FORMS))
        elif name and Location.CLOUD not in allow:
            hint = "remove `to_cloud`, or write allow: [edge, cloud]"
            self._faults.add("this tag never goes to the cloud", value.offset, hint)
        elif name and not detect:
            hint = "name the detectors that find what is to be replaced: detect: [email, phone]"
            self._faults.add("nothing would be replaced: this tag has no `detect`", value.offset, hint)
        return name == "pseudonymise"

    def _cache(self, value: Value, most: frozenset[Location]) -> frozenset[Location]:
        places = self._locations(value)
        if places - most:
            listed = ", ".join(sorted(most)) or "nowhere"
            message = f"an answer may be kept only where the request may go as it is: {listed}"
            self._faults.add(message, value.offset, "remove `cache`, or name fewer places")
        return places & most

    def _names(self, value: Value | None, what: str, known: Iterable[str]) -> list[str]:
        return read_names(value, what, known, self._faults)

    def _objectives(self, value: Value | None) -> Objectives:
        if value is None:
            return Objectives()
        keys = self._keys(value, "objectives")
        seconds = {name: self._read(keys, name, self._values.duration) for name in ("ttft", "tpot", "deadline")}
        cost = self._read(keys, "cost", self._values.money)
        budget = self._read(keys, "budget", self._values.money_per_day)
        if cost and budget and cost.currency != budget.currency:
            hint = f"write both in {cost.currency}"
            self._faults.add("`cost` and `budget` are in two currencies", keys["budget"].offset, hint)
        return Objectives(
            ttft_ms=_milliseconds(seconds["ttft"]),
            tpot_ms=_milliseconds(seconds["tpot"]),
            deadline_s=seconds["deadline"],
            cost=cost.amount if cost else None,
            budget=budget.amount if budget else None,
            currency=cost.currency if cost else budget.currency if budget else None,
        )

    def _read(self, keys: Mapping[str, Value], name: str, reader: Callable[[Value], Any]) -> Any:
        return reader(keys[name]) if name in keys else None

    def _resilience(self, value: Value | None) -> Resilience:
        if value is None:
            return Resilience()
        keys = self._keys(value, "resilience")
        breaker = self._keys(keys["breaker"], "breaker") if "breaker" in keys else {}
        found: dict[str, Any] = {
            "retries": self._whole(keys, "retries"),
            "retry_budget": self._read(keys, "retry_budget", self._values.percent),
            "continue_streams": self._read(keys, "continue_streams", self._values.flag),
            "breaker_failures": self._whole(breaker, "failures"),
            "breaker_open_s": self._read(breaker, "open", self._values.duration),
        }
        if "hedge_after" in keys:
            found.update(self._hedge(keys["hedge_after"]))
        return Resilience(**{name: value for name, value in found.items() if value is not None})

    def _hedge(self, value: Value) -> dict[str, float]:
        """A time, or a percentile of the backend's own times such as `p95`."""
        match = PERCENTILE.fullmatch(value.text) if isinstance(value, Scalar) else None
        if match is not None:
            return {"hedge_quantile": int(match[1]) / 100.0}
        seconds = self._values.duration(value)
        return {} if seconds is None else {"hedge_after_s": seconds}

    def _whole(self, keys: Mapping[str, Value], name: str) -> int | None:
        return self._values.integer(keys[name], *LIMITS[name]) if name in keys else None

    def _rules(self, value: Value | None) -> tuple[RuleDraft, ...]:
        if value is None:
            return ()
        if not isinstance(value, Sequence):
            self._faults.add("`rules` must be a list: each rule begins with a dash", value.offset)
            return ()
        drafts = [self._rule(index, item) for index, item in enumerate(value.items)]
        return tuple(draft for draft in drafts if draft is not None)

    def _rule(self, index: int, value: Value) -> RuleDraft | None:
        keys = self._keys(value, "a rule")
        kinds = [kind for kind in KINDS if kind in keys]
        if len(kinds) != 1:
            here = f"are {' and '.join(kinds)}" if kinds else "is none"
            self._faults.add(f"a rule has one of exclude, prefer and rank; here {here}", value.offset)
            return None
        kind = kinds[0]
        because = self._values.text(keys["because"], "a reason") if "because" in keys else None
        return RuleDraft(
            index=index,
            kind=kind,
            offset=value.offset,
            targets=() if kind == "rank" else self._targets(keys[kind], kind),
            weights=self._weights(keys[kind]) if kind == "rank" else {},
            when=self._values.scalar(keys["when"], "a condition") if "when" in keys else None,
            because=because or "",
        )

    def _targets(self, value: Value, kind: str) -> tuple[str, ...]:
        """Backends in the order written; a location stands for its backends."""
        known = set(self._backends) | {place.value for place in Location}
        listed = Sequence((value,), value.offset) if isinstance(value, Scalar) else value
        names = self._names(listed, "a backend or a location", known)
        if isinstance(value, Sequence) and not value.items:
            self._faults.add(f"`{kind}` names nobody", value.offset)
        targets: list[str] = []
        for name in names:
            here = [name] if name in self._backends else self._located(Location(name))
            targets.extend(backend for backend in here if backend not in targets)
        return tuple(targets)

    def _located(self, location: Location) -> list[str]:
        return [name for name, place in self._backends.items() if place is location]

    def _weights(self, value: Value) -> dict[str, float]:
        keys = self._keys(value, "rank")
        read = {name: self._values.number(item) for name, item in keys.items()}
        weights = {name: weight for name, weight in read.items() if weight is not None}
        if weights and not any(weights.values()):
            self._faults.add("one weight of `rank` must be more than 0", value.offset)
        elif not keys and isinstance(value, yamltext.Mapping) and not value.entries:
            self._faults.add("`rank` needs weights", value.offset, "for example rank: {latency: 1.0, cost: 0.2}")
        return weights


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000.0
