"""What the tests of the simulation share: small traces, small worlds, and runs."""

from __future__ import annotations

from hybrid_llm.lab.simulate.engine import Simulation
from hybrid_llm.lab.simulate.trace import Arrival, Trace
from hybrid_llm.lab.simulate.world import Setting, parse_world
from hybrid_llm.policies import parse_policy

HEAD = "version: 1\nname: one\ntags: {phi: {allow: [edge]}, open: {allow: [edge, cloud]}}\n"
EDGE = parse_policy(HEAD + "rules:\n  - exclude: cloud\n")
CLOUD = parse_policy(HEAD + "rules:\n  - exclude: edge\n")
EDGE_FIRST = parse_policy(HEAD + "rules:\n  - prefer: [edge, cloud]\n")
CLOUD_FIRST = parse_policy(HEAD + "rules:\n  - prefer: [cloud, edge]\n")
COOL = {"resistance_k_per_w": 0.0}
BARE = {"overhead_ms": 0.0, "prefill_tokens_per_s": 1000.0, "decode_tokens_per_s": 100.0}
FREE = {"background_share": 0.0, "edge_share": 1.0}
ENDLESS = {"capacity_wh": 0.0}


def trace(*arrivals):
    """A trace of (seconds, prompt tokens, output tokens, tags...)."""
    made = [
        Arrival(at_s=at, prompt_tokens=prompt, output_tokens=output, tags=frozenset(tags))
        for at, prompt, output, *tags in arrivals
    ]
    return Trace(arrivals=tuple(made), source="a test")


def world(**sections):
    """A world from the given constants: world(edge={"slots": 2})."""
    lines = ["version: 1"]
    for section, constants in sections.items():
        lines += [f"{section}:", *(f"  {name}: {value}" for name, value in constants.items())]
    return parse_world("\n".join(lines))


def simulate(policy, requests, **setting):
    return Simulation(policy, requests, Setting(**setting)).run()


class Around:
    """Stands in front of a policy."""

    def __init__(self, policy):
        self._policy = policy

    def __getattr__(self, name):
        return getattr(self._policy, name)
