"""The keys of a policy file, as records; conditions stay text here. Adding a key is one line in one of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.fields import (
    VERSION,
    Choice,
    Expression,
    Flag,
    Found,
    ListOf,
    MapOf,
    Name,
    Number,
    Text,
    Whole,
    duration,
    key,
    keys_of,
    one_of,
    percentage,
    table,
)
from hybrid_llm.core.request import Location
from hybrid_llm.policies.language.schema import KNOWN_DETECTORS, Objectives, Schema
from hybrid_llm.policies.reader.schemas import Json, json_schema
from hybrid_llm.policies.reader.yamltext import Scalar

DETECTOR: Final = Name("a detector")
OPTIONAL_DETECTOR: Final = Name("a detector that may be missing")
TARGET: Final = Name("a backend or a location")
LOCATION: Final = Choice({location.value: location for location in Location}, "a location")
PSEUDONYMISE: Final = "pseudonymise"
SEALED: Final = "sealed"
FORM: Final = Choice.of(PSEUDONYMISE, SEALED)
LOCATIONS: Final = ListOf(LOCATION, into=frozenset)
KINDS: Final = ("exclude", "prefer", "rank")
"""What a rule may be."""
_TARGETS: Final = ListOf(TARGET, least=1, single=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRule:
    """Where a request that carries this tag may go and in which form, and what sets the tag."""

    allow: frozenset[Location] = key(
        LOCATIONS, "Where such a request may go; empty for nowhere.", hint="allow: [edge]", examples=(["edge"],)
    )
    to_cloud: frozenset[str] = key(
        ListOf(FORM, least=1, single=True, into=frozenset),
        "In which form it goes to the cloud: `pseudonymise`, with pseudonyms for what the detectors find; `sealed`, "
        "only through backends that seal it to their own key; or both, in a list.",
        default=frozenset(),
        examples=("pseudonymise", ["pseudonymise", "sealed"]),
    )
    detect: tuple[str, ...] = key(
        ListOf(DETECTOR), "The detectors that set the tag when they find something in a text.", default=()
    )
    detect_if_available: tuple[str, ...] = key(
        ListOf(OPTIONAL_DETECTOR),
        "Further detectors, used where they are available: `names` is where its model is installed.",
        default=(),
        examples=(["names"],),
    )
    cache: frozenset[Location] = key(
        LOCATIONS,
        "Where an answer may be cached; by default, wherever the request may go unchanged.",
        default=frozenset(),
    )
    accept_undetected_names: bool = key(
        Flag(),
        "Whether a request for which an app declares the tag may go to the cloud although no detector of the tag "
        "finds names of people: what is not found leaves as it is.",
        default=False,
    )
    share_name: bool = key(Flag(), "Whether the name of the tag is sent to nodes.", default=False)
    offset: int = field(default=0, compare=False, repr=False)
    """Where it is declared in the file."""

    @property
    def pseudonymise(self) -> bool:
        """Whether the cloud sees pseudonyms."""
        return PSEUDONYMISE in self.to_cloud

    @property
    def sealed(self) -> bool:
        """Whether only a backend that seals may send it to the cloud."""
        return SEALED in self.to_cloud

    def with_available(self, detectors: Collection[str]) -> TagRule:
        """The rule with those of `detect_if_available` that are among *detectors*."""
        more = tuple(name for name in self.detect_if_available if name in detectors and name not in self.detect)
        return replace(self, detect=self.detect + more) if more else self


def _tag(found: Found) -> TagRule:
    tag = TagRule(**found.values, offset=found.offset)
    if tag.to_cloud and Location.CLOUD not in tag.allow:
        hint = "remove `to_cloud`, or write allow: [edge, cloud]"
        found.reject("this tag never goes to the cloud", hint, "to_cloud")
    elif tag.pseudonymise and not tag.detect:
        hint = "name the detectors that find what is to be replaced: detect: [email, phone]"
        found.reject("nothing would be replaced: this tag has no `detect`", hint, "to_cloud")
    if tag.accept_undetected_names and not tag.pseudonymise:
        found.reject("this has a meaning only beside `to_cloud: pseudonymise`", "remove it", "accept_undetected_names")
    if tag.share_name and Location.CLOUD not in tag.allow:
        found.reject(
            "this tag never goes to the cloud", "remove `share_name`, or write allow: [edge, cloud]", "share_name"
        )
    unchanged = tag.allow - {Location.CLOUD} if tag.to_cloud else tag.allow
    if "cache" not in found.present:
        return replace(tag, cache=unchanged)
    if tag.cache - unchanged:
        listed = ", ".join(sorted(unchanged)) or "nowhere"
        message = f"an answer may be cached only where the request may go unchanged: {listed}"
        found.reject(message, "remove `cache`, or name fewer locations", "cache")
    return tag


# What `_tag` checks, said again for JSON Schema: it is the only place where keys of a policy depend on each other.
_CLOUD: Final = {"contains": {"const": "cloud"}}
_EDGE: Final = {"contains": {"const": "edge"}}
_PSEUDONYMS: Final = {"anyOf": [{"const": PSEUDONYMISE}, {"contains": {"const": PSEUDONYMISE}, "type": "array"}]}
_YES: Final = {"const": True}
TAG: Final = table(
    TagRule,
    "a tag",
    make=_tag,
    json={
        "allOf": [
            {
                "if": {"required": ["to_cloud"]},
                "then": {"properties": {"allow": _CLOUD}},
            },
            {
                "if": {"properties": {"to_cloud": _PSEUDONYMS}, "required": ["to_cloud"]},
                "then": {"properties": {"detect": {"minItems": 1}}, "required": ["detect"]},
            },
            {
                "if": {"properties": {"accept_undetected_names": _YES}, "required": ["accept_undetected_names"]},
                "then": {"properties": {"to_cloud": _PSEUDONYMS}, "required": ["to_cloud"]},
            },
            {
                "if": {"properties": {"share_name": _YES}, "required": ["share_name"]},
                "then": {"properties": {"allow": _CLOUD}},
            },
            {
                "if": {"properties": {"cache": _EDGE}, "required": ["cache"]},
                "then": {"properties": {"allow": _EDGE}},
            },
            {
                "if": {"properties": {"cache": _CLOUD}, "required": ["cache"]},
                "then": {"properties": {"allow": _CLOUD}, "not": {"required": ["to_cloud"]}},
            },
        ]
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits(Checked):
    """When a backend's circuit breaker opens, and for how long."""

    failures: int = key(Whole(1, 1000), "Consecutive failures that open a circuit breaker.", default=5)
    open_s: float = key(duration(), "Time until an open one lets one request through.", name="open", default=30.0)


class Percentile(float):
    """A share of a backend's own times to the first token: 0.95 for `p95`."""


def _percentile(text: str) -> Percentile:
    if re.fullmatch("p[5-9][0-9]", text) is None:
        raise ValueError(f"`{text}` is not a percentile from p50 to p99")
    return Percentile(int(text[1:]) / 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resilience(Checked):
    """What may be tried when a backend fails; never more than tags and hard rules allow."""

    retries: int = key(Whole(0, 10), "Further calls of each backend after its first.", default=2)
    retry_budget: float = key(percentage(), "Share of requests that may be retried or hedged, over time.", default=0.1)
    hedge_after: float | None = key(
        one_of(duration(), Text("a percentile such as p95", "^p[5-9][0-9]$", _percentile)),
        "Time without a first token after which a call is hedged, or a percentile of the backend's own times; "
        "by default, never.",
        default=None,
        examples=("300ms", "p95"),
    )
    continue_streams: bool = key(
        Flag(),
        "Whether an answer that breaks off is continued by another allowed backend, or the same one.",
        default=False,
    )
    breaker: BreakerLimits = key(
        table(BreakerLimits, "breaker"), "When a backend's circuit breaker opens.", default=BreakerLimits()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Orders backends by a weighted sum, least first; one weight must be more than 0."""

    latency: float = key(Number(), "Weight of one millisecond until the answer is complete.", default=0.0)
    cost: float = key(Number(), "Weight of one unit of currency.", default=0.0)
    energy: float = key(Number(), "Weight of one joule.", default=0.0)
    quality: float = key(Number(), "Weight of the quality that is missing to 1.", default=0.0)


def _weights(found: Found) -> Mapping[str, float]:
    weights = {name: weight for name, weight in found.values.items() if name in found.present}
    if not found.present:
        found.reject("`rank` needs weights", "for example rank: {latency: 1.0, cost: 0.2}", "")
    elif not found.wrong and not any(weights.values()):
        found.reject("one weight of `rank` must be more than 0", "", "")
    return weights


RANK: Final = table(
    Weights,
    "rank",
    make=_weights,
    json={"anyOf": [{"properties": {k.name: {"exclusiveMinimum": 0}}, "required": [k.name]} for k in keys_of(Weights)]},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDraft:
    """One of exclude, prefer and rank, and its condition."""

    exclude: tuple[str, ...] = key(
        _TARGETS, "Hard: these are out while the condition holds or cannot be evaluated.", default=()
    )
    prefer: tuple[str, ...] = key(_TARGETS, "These first, in this order; all others after them.", default=())
    rank: Mapping[str, float] = key(
        RANK,
        "The smallest weighted sum first.",
        default={},
        examples=({"latency": 1.0, "cost": 0.2},),
    )
    when: Scalar | None = key(
        Expression(),
        "The condition, in a typed subset of CEL; by default, the rule always applies.",
        default=None,
        examples=(
            "request.prompt_tokens + request.max_tokens > edge.context_window",
            "has(device.battery) && device.battery < 20%",
            "'!network.online'",
        ),
    )
    because: str = key(
        Text(), "The reason shown to people; by default, the condition.", default="", examples=("the battery is low",)
    )
    kind: str
    """Which of the three it is."""
    index: int
    offset: int

    @property
    def targets(self) -> tuple[str, ...]:
        """The backends and locations that it names."""
        return self.exclude or self.prefer


def _rule(found: Found) -> RuleDraft | None:
    kinds = [kind for kind in KINDS if kind in found.present]
    if len(kinds) != 1:
        return None
    return RuleDraft(**found.values, kind=kinds[0], index=int(found.name), offset=found.offset)


RULE: Final = table(RuleDraft, "a rule", make=_rule, exactly_one=KINDS, reserved=("share", "tenant", "until"))


def _objectives(found: Found) -> Objectives:
    cost, budget = found.values["cost"], found.values["budget"]
    if cost and budget and cost.currency != budget.currency:
        found.reject("`cost` and `budget` are in two currencies", f"write both in {cost.currency}", "budget")
    amounts = {"cost": cost and cost.amount, "budget": budget and budget.amount}
    currency = cost.currency if cost else budget.currency if budget else None
    return Objectives(**{**found.values, **amounts}, currency=currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Decides, for each request, which backend answers it."""

    name: str = key(
        Text("a name"), "The name of the policy in decisions and logs.", hint="name: clinic", examples=("clinic",)
    )
    tags: Mapping[str, TagRule] = key(
        MapOf(TAG),
        "The privacy vocabulary: a request goes only where all of its tags allow. One with a tag that is not declared "
        "here is rejected.",
        default={},
        examples=({"phi": {"allow": ["edge"], "detect": ["medical_record"]}},),
    )
    objectives: Objectives = key(
        table(Objectives, "objectives", make=_objectives, reserved=("quality",)),
        "What the policy aims at; conditions read it under `objectives.`.",
        default=Objectives(),
    )
    rules: tuple[RuleDraft, ...] = key(
        ListOf(RULE, into=lambda rules: tuple(filter(None, rules))),
        "Every `exclude` that holds takes backends out; then the first `prefer` or `rank` that holds orders the rest.",
        default=(),
    )
    resilience: Resilience = key(
        table(Resilience, "resilience", reserved=("retry_on",)),
        "What may be tried after a failure.",
        default=Resilience(),
    )


POLICY: Final = table(Document, "policy", extra=(VERSION,), reserved=("budgets", "include", "cases"))


def backends_named(targets: Iterable[str], backends: Mapping[str, Location]) -> tuple[str, ...]:
    """The backends that *targets* name, each once; a location stands for its backends."""
    named = (
        [name] if name in backends else [other for other, location in backends.items() if location == name]
        for name in targets
    )
    return tuple(dict.fromkeys(itertools.chain.from_iterable(named)))


def policy_schema(backends: Mapping[str, Location] | None = None, detectors: Iterable[str] = KNOWN_DETECTORS) -> Json:
    """The JSON Schema of a policy file; without *backends* its rules may name any backend."""
    targets = {TARGET.words: {*(backends or {}), *map(str, Location)}}
    return json_schema(
        POLICY,
        "A policy of hybrid-llm",
        "hybrid-llm policy schema",
        names={DETECTOR.words: set(detectors), **(targets if backends else {})},
        suggested=targets,
        notes={"when": _names_of_conditions(backends or {location.value: location for location in Location})},
    )


def _names_of_conditions(backends: Mapping[str, Location]) -> str:
    schema = Schema(backends, Objectives())
    return "\n".join(
        f"- `{root}.{name}`: {spec.type}{', may be absent' if spec.optional else ''}"
        for root in schema.roots
        for name, spec in schema.fields(root).items()
    )
