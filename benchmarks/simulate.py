"""How long a simulation takes: 10,000 requests through four policies, beside the bare decisions (the floor).

The budget is 10 s for all four runs together. Everything runs in one thread, so CPU time is what an idle
machine would take.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks._run import parsed, parser, with_json, write
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.lab.simulate.compare import Contestant, always, compare
from hybrid_llm.lab.simulate.report import report
from hybrid_llm.lab.simulate.trace import Trace, synthetic, with_tags
from hybrid_llm.lab.simulate.world import Setting
from hybrid_llm.policies import Policy, builtin_policy

REQUESTS = 10_000
BUDGET_S = 10.0


def policies() -> list[Policy]:
    """The policy and the baselines."""
    own = builtin_policy("balanced")
    return [own, *(always(location, own).policy for location in Location), builtin_policy("latency-first")]


def bare(found: list[Policy], trace: Trace) -> None:
    """One decision for each request and policy, over signals that never change."""
    states = {
        "edge": BackendState(name="edge", location=Location.EDGE, context_window=4096, predicted_ttft_ms=150.0),
        "cloud": BackendState(name="cloud", location=Location.CLOUD, context_window=32768, predicted_ttft_ms=300.0),
    }
    device = DeviceSignals(battery=0.8, charging=False, temperature_c=50.0)
    signals = Signals(device=device, network=NetworkSignals(metered=False), backends=states)
    requests = [RequestMetadata(prompt_tokens=one.prompt_tokens, privacy=one.tags) for one in trace.arrivals]
    for policy in found:
        for request in requests:
            policy.decide(request, signals)


def seconds(subject: Callable[[], object], turns: int) -> float:
    """The median of *turns*."""
    times = []
    for _ in range(turns):
        began = time.process_time()
        subject()
        times.append(time.process_time() - began)
    return statistics.median(times)


def main() -> None:
    """Time everything, and print one line per subject."""
    options = parsed(with_json(parser(__doc__)))
    count, turns = (20, 1) if options.smoke else (REQUESTS, 3)
    tags = dict.fromkeys(("phi", "pii", "secret"), 0.03)
    trace = with_tags(synthetic(count, per_hour=120.0, seed=1, day_starts_s=0.0), tags, seed=1)
    found = policies()
    contestants = [Contestant(policy=policy, text="") for policy in found]
    run = lambda: compare(contestants, trace, Setting(), 400.0)  # noqa: E731
    comparison = run()
    figures = {
        f"simulate, {count} requests, {len(found)} policies": seconds(run, turns),
        "the decisions alone": seconds(lambda: bare(found, trace), turns),
        "the report": seconds(lambda: report(comparison, command="", version=""), turns),
    }
    whole, floor, _ = figures.values()
    for name, value in figures.items():
        print(f"{name:45} {value:8.2f} s")
    per = whole / count / len(found) * 1e6
    print(f"{per:.0f} us for each request and policy, {whole / floor:.1f} x the decisions alone; budget {BUDGET_S:g} s")
    write(options.json, figures)


if __name__ == "__main__":
    main()
