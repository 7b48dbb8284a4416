"""How a client stands at one instant, for metrics and people who look from outside; no request reads or pays for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hybrid_llm.backends.base import Backend, Several
from hybrid_llm.policies.schema import Objectives
from hybrid_llm.router.signals import Signals

__all__ = ["Vitals", "with_members"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """One instant of one client; names, numbers and states only."""

    signals: Signals
    """What a policy would see for an empty request, and the nodes of each backend one by one."""
    policy: str = ""
    digest: str = ""
    objectives: Objectives = field(default_factory=Objectives)
    """What the policy in force aims at."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Backend -> the name of its model; empty where a node has not told it yet."""
    retries_left: Mapping[str, float] = field(default_factory=dict)
    """Backend -> further calls and rivals that its retry budget would pay for now."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Backend with a price -> what this client has spent with it so far, in *currency*."""
    currency: str = ""


def with_members(signals: Signals, backends: Iterable[Backend]) -> Signals:
    """*signals* with the nodes of those backends that have several."""
    states = dict(signals.backends)
    for backend in backends:
        if isinstance(backend, Several):
            states[backend.name] = replace(states[backend.name], members=backend.members())
    return replace(signals, backends=states)
