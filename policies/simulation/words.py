"""The comparison in plain sentences: what a person should know before looking at figures. It counts nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hybrid_llm.policies.simulation.compare import Comparison
from hybrid_llm.policies.simulation.summary import Summary
from hybrid_llm.router.types import Location

__all__ = ["sentences", "warnings"]


def sentences(comparison: Comparison) -> list[str]:
    """What the policy did with the trace, what it kept private, and how each rival differs."""
    first, *others = comparison.summaries
    return [_did(first), _kept(first), *(_differs(first, other, comparison.currency) for other in others)]


def _did(one: Summary) -> str:
    lost = one.requests - one.edge - one.cloud
    return (
        f"{one.policy} answered {one.edge + one.cloud:,} of {one.requests:,} requests: "
        f"{_percent(one.edge, one.requests)} of all on the device, {_percent(one.cloud, one.requests)} in the cloud; "
        f"{lost:,} had no answer."
    )


def _kept(one: Summary) -> str:
    if one.bound_left:
        return f"{one.bound_left:,} requests that may not leave the device were sent to the cloud: this must never be."
    if not one.bound:
        return "No request of the trace was bound to the device."
    return (
        f"None of the {one.bound:,} requests that may not go to the cloud left the device; "
        f"without their tags {one.would_leave:,} would have."
    )


def _differs(one: Summary, other: Summary, currency: str) -> str:
    missed, theirs = _percent(one.missed, one.requests), _percent(other.missed, other.requests)
    parts = [f"{missed} missed the service level instead of {theirs}"]
    if one.ttft_ms.p95 is not None and other.ttft_ms.p95 is not None:
        parts.append(f"first token at p95 after {one.ttft_ms.p95:,.0f} ms instead of {other.ttft_ms.p95:,.0f} ms")
    parts.append(f"cost {one.cost:.2f} {currency} instead of {other.cost:.2f} {currency}")
    parts.append(f"energy for answers {one.model_energy_wh:.1f} Wh instead of {other.model_energy_wh:.1f} Wh")
    return f"Compared with {other.policy}: {', '.join(parts)}."


def _percent(count: int, of: int) -> str:
    return f"{100.0 * count / of:.1f} %" if of else "0 %"


def warnings(comparison: Comparison) -> Iterator[str]:
    """What makes the figures mean something else than they seem to."""
    yield from _overload(comparison)
    if comparison.summaries[0].off:
        yield "the battery was empty for a while: see `battery` of the world file (--show-world)"


def _overload(comparison: Comparison) -> Iterator[str]:
    trace, edge = comparison.trace, comparison.setting.world.edge
    count = len(trace.arrivals)
    if count < 2 or Location.EDGE not in comparison.contestants[0].policy.backends.values():
        return
    prompt = sum(one.prompt_tokens for one in trace.arrivals) / count
    output = sum(min(one.output_tokens, comparison.setting.world.requests.max_tokens) for one in trace.arrivals) / count
    each_s = edge.overhead_ms / 1000.0 + prompt / edge.prefill_tokens_per_s + output / edge.decode_tokens_per_s
    most = edge.slots * 3600.0 / each_s
    if trace.per_hour > most:
        rate = "all at once" if math.isinf(trace.per_hour) else f"{trace.per_hour:,.0f} requests an hour"
        yield (
            f"the trace has {rate}, one device can answer about {most:,.0f}: "
            f"it is the load of a service; --rate {most / 10.0:.0f}/h makes it that of one device"
        )
