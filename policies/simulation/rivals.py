"""The policies that a policy is compared with: always the device, always the cloud, with its tags."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from hybrid_llm.policies.document import TagRule
from hybrid_llm.policies.load import parse_policy
from hybrid_llm.policies.policy import Policy
from hybrid_llm.policies.source import did_you_mean
from hybrid_llm.router.errors import ConfigError
from hybrid_llm.router.types import Location

__all__ = ["always", "always_text", "require_tags"]


def always(location: Location, policy: Policy) -> Policy:
    """The policy that asks nobody but *location*, under the tags and objectives of *policy*."""
    detectors = frozenset(name for rule in policy.tags.values() for name in rule.detect)
    text = always_text(location, policy)
    return parse_policy(text, path=f"always-{location}", backends=policy.backends, detectors=detectors)


def always_text(location: Location, policy: Policy) -> str:
    """Its text, in the policy language."""
    other = Location.CLOUD if location is Location.EDGE else Location.EDGE
    return "\n".join(
        [
            "version: 1",
            f"name: always-{location}",
            *_tags(policy),
            *_objectives(policy),
            "rules:",
            f"  - exclude: {other}",
            f"    because: this rival never asks the {other}",
            "",
        ]
    )


def _tags(policy: Policy) -> Iterator[str]:
    if policy.tags:
        yield "tags:"
    for name, rule in policy.tags.items():
        yield f"  {json.dumps(name, ensure_ascii=False)}: {{{', '.join(_tag(rule))}}}"


def _tag(rule: TagRule) -> Iterator[str]:
    yield f"allow: [{', '.join(sorted(rule.allow))}]"
    if rule.pseudonymise:
        yield "to_cloud: pseudonymise"
    if rule.detect:
        yield f"detect: {json.dumps(list(rule.detect))}"


def _objectives(policy: Policy) -> Iterator[str]:
    goals = policy.objectives
    found = []
    if goals.ttft_ms is not None:
        found.append(f"ttft: {goals.ttft_ms:.3f}ms")
    if goals.deadline_s is not None:
        found.append(f"deadline: {goals.deadline_s:.6f}s")
    if found:
        yield f"objectives: {{{', '.join(found)}}}"


def require_tags(policy: Policy, tags: Iterable[str]) -> None:
    """See that *policy* declares every one of *tags*.

    Raises:
        ConfigError: it does not; in production each such request would be an error.
    """
    for tag in sorted(tags):
        if tag not in policy.tags:
            hint = did_you_mean(tag, policy.tags)
            raise ConfigError(
                f"policy {policy.name} does not declare the tag `{tag}` that requests of the trace have: {hint}; "
                "declare it, or choose the tags with --tag"
            )
