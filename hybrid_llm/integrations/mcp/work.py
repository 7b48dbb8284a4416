"""What the tools of our MCP server do with a client."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any, Final

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.request import Location
from hybrid_llm.core.threads import awaited, in_thread
from hybrid_llm.integrations.mcp.documents import (
    Answer,
    Call,
    Explanation,
    GenerateCall,
    Simulated,
    SimulatedCall,
    Simulation,
    Trial,
    TriedCase,
)
from hybrid_llm.lab.casefile import parse_cases
from hybrid_llm.lab.cases import Outcome, Report, run_suite
from hybrid_llm.policies import Policy, builtin_names, parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.preview import Preview

Notify = Callable[[float, float | None, str | None], Awaitable[None]]
"""Takes progress, its total, and a message."""
_PROGRESS_S: Final = 0.05
"""The shortest time between two notifications of progress."""


class Progress:
    """Sends the text of an answer on its way to a client that asked for it, in notifications of progress."""

    def __init__(self, notify: Notify, max_tokens: int | None) -> None:
        self._notify, self._total = notify, max_tokens
        self._tokens = self._reported = 0
        self._text = ""
        self._last = 0.0

    async def add(self, chunk: Chunk) -> None:
        """Send what has come since the last notification, unless that was just now; each has more tokens."""
        self._tokens += chunk.tokens
        self._text += chunk.text
        now = time.monotonic()
        is_due = chunk.finish_reason is not None or now - self._last >= _PROGRESS_S
        if is_due and self._tokens > self._reported:
            await self._notify(float(self._tokens), self._total, self._text or None)
            self._reported, self._last, self._text = self._tokens, now, ""


async def generate(client: HybridLLM, call: GenerateCall, notify: Notify) -> Answer:
    """Answer a request; whatever `astream` raises ends it, and so does the cancellation of the task."""
    progress = Progress(notify, call.max_tokens)
    async with client.astream(call.asked, **call.options) as stream:
        async for chunk in stream:
            await progress.add(chunk)
        return _answer(stream.generation)


def _answer(generation: Generation) -> Answer:
    document = generation.to_dict()
    names = Answer.model_fields.keys() & document.keys()
    return Answer(**{name: document[name] for name in names}, **_routing(generation.decision))


async def explain(client: HybridLLM, call: Call) -> Explanation:
    """Decide a request; nothing is sent."""
    return Explanation(**_explained(await client.apreview(call.asked, **call.options)))


def _routing(decision: Decision) -> dict[str, Any]:
    return {
        "order": list(decision.order),
        "excluded": dict(decision.excluded),
        "rule": decision.rule,
        "because": decision.because,
        "tags": sorted(decision.tags),
        "policy": decision.policy,
        "digest": decision.digest,
    }


def _explained(preview: Preview) -> dict[str, Any]:
    return {
        **_routing(preview.decision),
        "allowed": sorted(preview.allowed),
        "pseudonymised": preview.pseudonymised,
        "text": preview.decision.explain(),
    }


async def simulate(client: HybridLLM, simulation: Simulation) -> Trial:
    """Try a policy, which does not take effect, with requests and test cases.

    Raises:
        PolicyError: the policy or the cases are not valid; `.errors` has everything that is wrong.
    """
    policy = await awaited(in_thread("hybrid-llm-policy", partial(_policy, client, simulation.policy)))
    requests = [await _simulated(client, policy, call, at) for at, call in enumerate(simulation.requests)]
    report: Report | None = None
    if simulation.cases:
        report = await awaited(in_thread("hybrid-llm-cases", partial(_run_cases, policy, simulation.cases)))
    return Trial(
        policy=policy.name,
        digest=policy.digest,
        warnings=[str(warning) for warning in policy.warnings],
        requests=requests,
        cases=[] if report is None else [_tried(outcome) for outcome in report.outcomes],
        passed=report is None or report.passed,
        rules_not_covered=[] if report is None else [rule.label for rule in report.unmatched],
    )


def _policy(client: HybridLLM, text: str) -> Policy:
    if not text.strip():
        return client.policy
    if text.strip() in builtin_names():
        text = (files("hybrid_llm.policies") / "builtin" / f"{text.strip()}.yaml").read_text("utf-8")
    return client.parse_policy(text)


async def _simulated(client: HybridLLM, policy: Policy, call: SimulatedCall, at: int) -> Simulated:
    tried = await client.apreview(call.asked, policy, **call.options)
    now = await client.apreview(call.asked, **call.options)
    changed = tried.decision.order != now.decision.order
    return Simulated(**_explained(tried), name=call.name or f"requests[{at}]", changed=changed)


def _run_cases(policy: Policy, text: str) -> Report:
    detectors = frozenset(name for rule in policy.tags.values() for name in rule.detect)

    def policy_for(named: Mapping[str, Location] | None) -> Policy:
        return parse_policy(policy.text, backends=named or policy.backends, detectors=detectors)

    suite = parse_cases(text, "cases", policy_for)
    return run_suite(suite.policy, suite.cases)


def _tried(outcome: Outcome) -> TriedCase:
    return TriedCase(
        name=outcome.case.name,
        passed=outcome.passed,
        order=list(outcome.decision.order),
        mismatches=[{"what": one.what, "expected": one.expected, "actual": one.actual} for one in outcome.mismatches],
    )


def signals_document(client: HybridLLM) -> object:
    """The signals that a policy would read now, as plain data."""
    return jsonable(client.signals())
