"""Tries a policy with a client, without putting it into force: on requests, with live signals, and on test cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import Any

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.request import GenerateOptions, Location, Prompt
from hybrid_llm.core.threads import awaited, in_thread
from hybrid_llm.lab.casefile import parse_cases
from hybrid_llm.lab.cases import Report, run_suite
from hybrid_llm.policies import Policy, builtin_names, parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.preview import Preview


@dataclass(frozen=True, slots=True, kw_only=True)
class Trying:
    """A request that is only decided; *name* is what the report calls it."""

    name: str
    prompt: Prompt = field(repr=False)
    options: GenerateOptions = field(default_factory=GenerateOptions, repr=False)


async def dry_run(client: HybridLLM, policy: str, requests: Sequence[Trying], cases: str) -> dict[str, Any]:
    """What a policy decides, as plain data: for each request, and whether the policy in force decides otherwise.

    Args:
        client: Whose backends, detectors, prices and signals count.
        policy: The text of the policy, or the name of a built-in one; empty for the one in force.
        requests: What to decide now; nothing is sent.
        cases: The text of a file of test cases; empty for none.

    Raises:
        PolicyError: the policy or the cases are not valid; `.errors` has everything that is wrong.
        InvalidRequest: a request is wrong.
    """
    tried = await awaited(in_thread("hybrid-llm-policy", partial(_policy, client, policy)))
    decided = [await _decided(client, tried, each) for each in requests]
    report = Report(policy=tried, outcomes=())
    if cases:
        report = await awaited(in_thread("hybrid-llm-cases", partial(_run_cases, tried, cases)))
    warnings = [str(warning) for warning in tried.warnings]
    found = report.to_dict() | {"requests": decided, "warnings": warnings}
    return found if cases else found | {"rules_not_covered": [], "tags_not_covered": []}


def _policy(client: HybridLLM, text: str) -> Policy:
    name = text.strip()
    if not name:
        return client.policy
    if name in builtin_names():
        text = (files("hybrid_llm.policies") / "builtin" / f"{name}.yaml").read_text("utf-8")
    return client.parse_policy(text)


async def _decided(client: HybridLLM, policy: Policy, trying: Trying) -> dict[str, Any]:
    tried = await client.apreview(trying.prompt, policy, **trying.options)
    now = await client.apreview(trying.prompt, **trying.options)
    changed = tried.decision.order != now.decision.order
    return {"name": trying.name, "changed": changed, **preview_document(tried)}


def _run_cases(policy: Policy, text: str) -> Report:
    detectors = frozenset(name for rule in policy.tags.values() for name in rule.detect)

    def policy_for(named: Mapping[str, Location] | None) -> Policy:
        return parse_policy(policy.text, backends=named or policy.backends, detectors=detectors)

    suite = parse_cases(text, "cases", policy_for)
    return run_suite(suite.policy, suite.cases)


def preview_document(preview: Preview) -> dict[str, Any]:
    """A decision, where the request may go, and both for people; no text of the request."""
    return {
        **routing(preview.decision),
        "allowed": sorted(preview.allowed),
        "pseudonymised": preview.pseudonymised,
        "text": preview.decision.explain(),
    }


def routing(decision: Decision) -> dict[str, Any]:
    """A decision without its trace, as plain data."""
    names = ("order", "excluded", "rule", "because", "tags", "policy", "digest")
    document = decision.to_dict()
    return {name: document[name] for name in names}
