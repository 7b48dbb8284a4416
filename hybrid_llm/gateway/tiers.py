"""OpenAI's `service_tier` by our priorities: what a request asks for, and what its answer reports."""

from __future__ import annotations

from typing import Final

from hybrid_llm.core.generation import Generation
from hybrid_llm.core.jsonable import Json

TIERS: Final = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")


def priority_of(body: Json, highest: int) -> int | None:
    """The priority that the tier of *body* asks for, of one that may ask for the *highest*; None for that of backends.

    `flex` is the lowest, `priority` the highest; it is no wish of one that has no right to any above 0. The others name
    nothing that a client of ours could have bought.
    """
    tier = body.get("service_tier")
    if tier == "flex":
        return 0
    return highest or None if tier == "priority" else None


def tier_field(body: Json, generation: Generation) -> Json:
    """The field `service_tier` of an answer, if its request has it: `default` unless a backend followed a priority."""
    if (asked := body.get("service_tier")) is None:
        return {}
    lowest = "flex" if asked == "flex" and generation.priority is not None else "default"
    return {"service_tier": "priority" if generation.priority else lowest}
