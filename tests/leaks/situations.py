"""Generated policies, requests and faults, and which requests must stay on the device, judged independently.

The judgement uses the plan from which the policy's text was written and the kinds of the planted values, but neither
the guard nor the detectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

__all__ = [
    "AFTER_A_CHUNK",
    "DETECTOR_FAULTS",
    "FAULTS",
    "KINDS",
    "MOMENTS",
    "Part",
    "Plan",
    "Shape",
    "TagPlan",
    "Verdict",
    "judge",
    "plan_of",
    "shape_of",
]

KINDS = ("email", "us_ssn", "payment_card", "medical_record", "credential", "codeword")
"""What is planted: kinds of the library's detectors, and one of the app's own, `codeword`."""
TAGS = ("red", "amber", "green")
EVERYWHERE, DEVICE = frozenset({"edge", "cloud"}), frozenset({"edge"})

BEFORE_A_CHUNK = ("refuse", "overload", "hang", "silence", "reject", "misfit", "denied", "quota", "untrusted", "crash")
AFTER_A_CHUNK = ("cut", "silent end", "crash in mid-stream", "late", "odd finish", "chunks after the finish")
FAULTS = (*BEFORE_A_CHUNK, *AFTER_A_CHUNK, "lie")
"""What a backend does wrong. *silence* is broken after 5 ms, long enough for a hedge; *hang* lasts until the deadline;
*lie*: one that is on the device wants to send."""

DETECTOR_FAULTS = (
    "raise",
    "raise late",
    "outside",
    "empty",
    "backwards",
    "no finding",
    "nothing",
    "second look",
    "telltale",
)
MOMENTS = ("reload", "break the policy", "close the client", "leave", "forget", "lie")
"""What happens during an answer. *lie*: from now on every backend claims to be on the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagPlan:
    """One tag of the policy; *cache* None leaves it to the default."""

    allow: frozenset[str]
    detect: tuple[str, ...] = ()
    hide: bool = False
    cache: frozenset[str] | None = None

    @property
    def keep(self) -> frozenset[str]:
        """Where an answer may be cached."""
        if self.cache is not None:
            return self.cache
        return self.allow - {"cloud"} if self.hide else self.allow

    def text(self) -> str:
        """The tag in YAML."""
        parts = [f"allow: [{', '.join(sorted(self.allow))}]"]
        parts += [f"detect: [{', '.join(self.detect)}]"] if self.detect else []
        parts += ["to_cloud: pseudonymise"] if self.hide else []
        parts += [f"cache: [{', '.join(sorted(self.cache))}]"] if self.cache is not None else []
        return f"{{{', '.join(parts)}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A policy before it is text."""

    tags: Mapping[str, TagPlan]
    rules: tuple[str, ...] = ()
    retries: int = 0
    failures: int = 5
    resilience: str = ""
    """More of it: hedges, and streams that are continued."""

    def text(self, number: int) -> str:
        """The policy in YAML; *number* makes it another file."""
        lines = ["version: 1", f"name: plan-{number}", "tags:"]
        lines += [f"  {name}: {tag.text()}" for name, tag in self.tags.items()]
        lines += ["rules:" if self.rules else "rules: []", *(f"  - {rule}" for rule in self.rules)]
        breaker = f"{{failures: {self.failures}, open: 30s}}"
        return "\n".join([*lines, f"resilience: {{retries: {self.retries}, breaker: {breaker}{self.resilience}}}", ""])


@dataclass(frozen=True, slots=True)
class Verdict:
    """*stay*: no byte may leave. *hidden*: the kinds whose values may not. *keep*: a cloud cache may store it."""

    stay: bool
    hidden: frozenset[str] = frozenset()
    keep: bool = False


def judge(plan: Plan, declared: frozenset[str], planted: frozenset[str]) -> Verdict:
    """The plan's verdict on a request with these declared tags and planted values of these kinds."""
    found = {name for name, tag in plan.tags.items() if planted & set(tag.detect)}
    tags = [plan.tags[name] for name in declared | found]
    hiding = [tag for tag in tags if tag.hide]
    stay = any("cloud" not in tag.allow for tag in tags) or any(not planted & set(tag.detect) for tag in hiding)
    hidden = frozenset(kind for tag in hiding for kind in tag.detect)
    return Verdict(stay, hidden, not stay and all("cloud" in tag.keep for tag in tags))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A text of a request: its position, and the kinds of the values in it."""

    place: str
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A request before its texts are drawn, how it is called, and what goes wrong."""

    parts: tuple[Part, ...]
    declared: frozenset[str] = frozenset()
    session: str | None = None
    tenant: str | None = None
    history: str = "none"
    """What of the session is repeated: nothing, all, the last answer, or a known value where no detector finds it."""
    how: str = "generate"
    task: str = "chat"
    temperature: float = 0.0
    adds: tuple[str, ...] | None = None
    """The device begins its answer with a text of its own, which holds values of these kinds; None: it only echoes."""
    again: str = ""
    """The last request once more: the `same`, with `other words`, or of an `other tenant`."""
    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What each backend does, call by call; `first` applies to the backend called first."""
    detector_fault: str | None = None
    moment: str | None = None
    step: int = 7
    """How many characters of the answer come in one chunk."""

    @property
    def deadline(self) -> float:
        """Seconds: very few if a backend hangs."""
        return 0.02 if any("hang" in faults for faults in self.faults.values()) else 5.0

    @property
    def is_async(self) -> bool:
        """Whether it is made from an event loop."""
        return self.how in {"agenerate", "astream"}


RULES = (
    "{prefer: [cloud, edge], when: request.max_tokens > 0}",
    "{prefer: [edge, cloud], when: request.task == 'near'}",
    "{exclude: edge, because: it is far, when: request.task == 'far'}",
    "{exclude: cloud, because: it is near, when: request.task == 'near'}",
    "{prefer: [cloud], when: 'node.predicted_ttft_ms >= 0.0 && request.message_count > 1'}",
)
LAST = ("{prefer: [cloud, edge]}", "{prefer: [edge, cloud]}", "{prefer: [edge, cloud]}", "{rank: {latency: 1.0}}")


_FORMS = ("here",) * 3 + ("hide",) * 5 + ("open",) * 4 + ("cloud only", "nowhere")
_ALLOW: Mapping[str, frozenset[str]] = {
    "here": DEVICE,
    "hide": EVERYWHERE,
    "open": EVERYWHERE,
    "cloud only": frozenset({"cloud"}),
    "nowhere": frozenset(),
}
_BOTH = ", hedge_after: 1ms, continue_streams: true, retry_budget: 100%"
_PLACES = ("user", "user", "user", "system", "assistant", "tool", "schema", "tool definition", "stop")
_WITHIN = ((), (), *((kind,) for kind in KINDS), *pairwise(KINDS))
_DECLARED = (*(frozenset[str](),) * 5, *(frozenset({tag}) for tag in TAGS), frozenset(TAGS[:2]))
_SESSIONS = ((None, None), (None, None), ("s", None), ("s", None), ("t", "tenant"), ("s", "tenant"))
_HISTORIES = ("none", "all", "answer", "unseen", "unseen")
_AGAIN = ("",) * 10 + ("same", "same", "same", "other words", "other tenant", "other tenant")
_ADDS = (None,) * 10 + ((), *((kind,) for kind in KINDS))
_HOW = ("generate", "stream", "agenerate", "astream") * 4 + ("decide",)


def _tag_plan(random: Random) -> TagPlan:
    form, detect = random.choice(_FORMS), tuple(random.sample(KINDS, random.choice([0, 1, 1, 2])))
    if form == "hide":
        cache = random.choice([None, None, frozenset[str](), DEVICE])
        return TagPlan(allow=EVERYWHERE, detect=detect or ("email",), hide=True, cache=cache)
    return TagPlan(allow=_ALLOW[form], detect=detect, cache=random.choice([None, None, None, frozenset[str]()]))


def plan_of(random: Random, *, device: bool = True) -> Plan:
    """A policy over backends of which one is called `node`; without *device* none is on the edge."""
    tags = {name: _tag_plan(random) for name in TAGS}
    rules = [*random.sample(RULES, random.randint(0, 2)), random.choice(LAST)]
    if not device:
        rules = [rule for rule in rules if "edge" not in rule]
    retries, failures = random.choice([(0, 5), (0, 5), (0, 1), (1, 5)])
    resilience = random.choice(["", ", hedge_after: 1ms", ", continue_streams: true", _BOTH])
    return Plan(tags=tags, rules=tuple(rules), retries=retries, failures=failures, resilience=resilience)


def _trouble(random: Random) -> Mapping[str, tuple[str, ...]]:
    """The faults: often none, mostly one of the backend called first, sometimes one of all."""
    if random.random() < 0.4:
        return {}
    if random.random() < 0.2:
        return {"first": (random.choice(["cut", "silent end", "odd finish", "refuse"]),), "liar": ("lie",)}
    names = random.choice([("first",), ("first",), ("first",), ("node",), ("local", "node"), ("liar", "node", "far")])
    return {name: (random.choice(FAULTS), *random.choice([(), ("answer",)])) for name in names}


def shape_of(random: Random, *, alone: bool = True) -> Shape:
    """One request; *alone*: nothing runs beside it, so that what goes wrong in the client's parts is its own."""
    session, tenant = random.choice(_SESSIONS)
    luck = random.random() if alone else 1.0
    return Shape(
        parts=tuple(
            Part(place=place, kinds=random.choice(_WITHIN))
            for place in (*random.sample(_PLACES, random.choice([0, 0, 1, 2])), "user")
        ),
        declared=random.choice(_DECLARED),
        session=session,
        tenant=tenant,
        history=random.choice(_HISTORIES) if session else "none",
        how=random.choice(_HOW if alone else ("stream", "astream")),
        task=random.choice(["chat", "chat", "chat", "near", "far"]),
        temperature=random.choice([0.0, 0.0, 0.0, 0.5]),
        adds=random.choice(_ADDS),
        again=random.choice(_AGAIN),
        faults=_trouble(random),
        detector_fault=random.choice(DETECTOR_FAULTS) if luck < 0.15 else None,
        moment=random.choice(MOMENTS) if 0.15 < luck < 0.5 else None,
        step=random.choice([1, 7, 1000]),
    )
