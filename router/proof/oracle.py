"""What the tags of a policy allow, worked out from their declarations alone: what the real code is held against.

It shares no code with the guard or the policy, on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hybrid_llm.policies import TagRule
from hybrid_llm.router.types import Location

__all__ = ["Verdict", "judge", "mark"]

_DEVICE = frozenset({Location.EDGE})


def mark(detector: str) -> str:
    """What stands in a text for something that *detector* finds."""
    return f"<<{detector}>>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where a request may go and an answer to it may be kept; *hidden* may not be read in the form for the cloud."""

    tags: frozenset[str]
    allowed: frozenset[Location]
    keepable: frozenset[Location]
    hidden: frozenset[str]
    why: str
    """Why a place that is not allowed is out, for people."""


def judge(
    tags: Mapping[str, TagRule], declared: Iterable[str], finds: frozenset[str], fails: frozenset[str]
) -> Verdict:
    """The verdict on a request with *declared* tags, in which detectors *finds* find something and *fails* raise."""
    effective = {*declared, *(tag for tag, rule in tags.items() if finds.intersection(rule.detect))}
    rules = {tag: tags[tag] for tag in sorted(effective)}
    allowed, keepable = frozenset(Location), frozenset(Location)
    for rule in rules.values():
        allowed, keepable = allowed & rule.allow, keepable & rule.cache
    doubt = _doubt(tags, rules, finds, fails)
    if doubt:
        allowed, keepable = allowed & _DEVICE, keepable & _DEVICE
    hiding = [rule for rule in rules.values() if rule.pseudonymise]
    return Verdict(
        tags=frozenset(effective),
        allowed=allowed,
        keepable=keepable,
        hidden=frozenset(name for rule in hiding for name in rule.detect),
        why=doubt or "; ".join(f"tag {tag} allows only {_names(rule.allow)}" for tag, rule in rules.items()),
    )


def _doubt(
    tags: Mapping[str, TagRule], rules: Mapping[str, TagRule], finds: frozenset[str], fails: frozenset[str]
) -> str:
    """Why the request must stay on the device although its tags may allow more; empty where nothing is in doubt."""
    for tag, rule in tags.items():
        failed = fails.intersection(rule.detect)
        if failed and (tag not in rules or rule.pseudonymise):
            return f"the detector {min(failed)} of tag {tag} failed"
    for tag, rule in rules.items():
        if rule.pseudonymise and not finds.intersection(rule.detect):
            return f"tag {tag} demands pseudonyms, and nothing is found to replace"
    return ""


def _names(places: frozenset[Location]) -> str:
    return " and ".join(sorted(places)) or "no place"
