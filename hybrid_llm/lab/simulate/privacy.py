"""What the privacy guard makes of the tags of a simulated request: the real guard, over texts in which markers stand.

The trace has no texts. A tag that detectors find stands for a text that holds the marker of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.trace import Arrival
from hybrid_llm.lab.verify.report import judge, mark
from hybrid_llm.lab.verify.world import MarkerDetector
from hybrid_llm.policies.policy import Policy
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.request import make_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the guard decided, and what the declarations of the tags allow, with which its decision is compared."""

    tags: frozenset[str]
    """The effective ones."""
    blocked: Mapping[Location, str]
    """As in the guard's assessment: locations that the tags allow and the guard does not."""
    allowed: frozenset[Location]
    """Worked out without the guard."""
    pseudonymised: bool
    """In the cloud it has that form."""


class Judge:
    """Judges requests under *policy*; each combination of tags once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        names = sorted({name for rule in policy.tags.values() for name in rule.detect})
        self._guard = PrivacyGuard([MarkerDetector(name, fails=False) for name in names])
        self._judged: dict[tuple[frozenset[str], frozenset[str]], Judgement] = {}

    def __call__(self, arrival: Arrival) -> Judgement:
        """Judge one request, which has only tags that the policy declares."""
        known = arrival.tags, arrival.found
        if known not in self._judged:
            self._judged[known] = self._judge(*known)
        return self._judged[known]

    def _judge(self, declared: frozenset[str], found: frozenset[str]) -> Judgement:
        rules = self._policy.tags
        declared |= {tag for tag in found if not rules[tag].detect}  # only an app can have set it
        finds = frozenset(self._detector(tag) for tag in found if rules[tag].detect)
        text = " ".join(["words", *map(mark, sorted(finds))])
        assessment = self._guard.assess(make_request(text, {"privacy": declared}, Defaults()), self._policy)
        self._guard.release(assessment)
        verdict = judge(rules, declared, finds, frozenset())
        return Judgement(
            tags=assessment.request.privacy,
            blocked=assessment.blocked,
            allowed=verdict.allowed,
            pseudonymised=bool(verdict.pseudonymised),
        )

    def _detector(self, tag: str) -> str:
        """A detector of *tag*, if possible one that no other tag has."""
        rules = self._policy.tags
        others = {name for other, rule in rules.items() if other != tag for name in rule.detect}
        own = rules[tag].detect
        return next((name for name in own if name not in others), own[0])
