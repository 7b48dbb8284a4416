"""Scenes in which the policy chooses: by the request, by the device, by time, by money."""

from __future__ import annotations

import asyncio
from typing import Final

from hybrid_llm.cli.demo.scene import Check, Outcome, answered, by_rule, given, left_out
from hybrid_llm.cli.demo.world import PRICE, World
from hybrid_llm.router.spending.prices import UNIT
from hybrid_llm.router.types import Generation

__all__ = [
    "BECAUSE",
    "COUNT",
    "LONG",
    "again",
    "battery",
    "budget",
    "concurrent",
    "deadline",
    "hot",
    "math",
    "plain",
    "streaming",
    "too_long",
]

COUNT: Final = "Count from 3 to 40."
LONG: Final = " ".join(f"The box number {i} is on shelf {i % 7}." for i in range(120)) + " Where is the box number {}?"
BECAUSE: Final = "it is for the larger model"
_SPENT: Final = 1_995_000_000
"""1.995 of the 2 USD that one tenant may spend in a day, in billionths."""


def plain(world: World) -> Outcome:
    """Nothing special: the device answers."""
    before = world.bytes_to_cloud
    reply = world.llm.generate("Is this review positive? 'A warm, funny film.'", max_tokens=24)
    return answered(world, reply, before, "edge", by_rule(reply, "the device first"))


def too_long(world: World) -> Outcome:
    """More tokens than the device's model can hold."""
    before = world.bytes_to_cloud
    reply = world.llm.generate(LONG.format(77), max_tokens=24)
    return answered(world, reply, before, "cloud", left_out(reply.decision, "edge", "does not fit"))


def hot(world: World) -> Outcome:
    """The thermometer is given, not read."""
    before = world.bytes_to_cloud
    with given(world, temperature_c=91.0):
        reply = world.llm.generate("Is this review positive? 'Dull and far too long.'", max_tokens=24)
    return answered(world, reply, before, "cloud", by_rule(reply, "the device is hot"))


def battery(world: World) -> Outcome:
    """The battery is given, not read."""
    before = world.bytes_to_cloud
    with given(world, battery=0.1, charging=False):
        reply = world.llm.generate("Is this review positive? 'A small gem.'", max_tokens=24)
    return answered(world, reply, before, "cloud", by_rule(reply, "the battery is low"))


def math(world: World) -> Outcome:
    """A task that the policy gives to the larger model."""
    before = world.bytes_to_cloud
    reply = world.llm.generate("What is 4821 + 1937?", task="math", max_tokens=24)
    return answered(world, reply, before, "cloud", by_rule(reply, BECAUSE))


def again(world: World) -> Outcome:
    """Asked twice. The second time nobody is called: the client's cache has the answer, as its tags allow."""
    first = world.llm.generate("What is 250 + 725?", task="math", max_tokens=24)
    before = world.bytes_to_cloud
    reply = world.llm.generate("What is 250 + 725?", task="math", max_tokens=24)
    same = Check("word for word what the cloud had said", reply.text == first.text and not first.cached)
    nobody = Check("nobody was called", world.events[-1].attempts == ())
    return answered(world, reply, before, "cloud", same, nobody, by="cloud, kept", kept=True)


def deadline(world: World) -> Outcome:
    """A task for the larger model, but within 150 ms: the nodes are 200 ms away and back."""
    before = world.bytes_to_cloud
    reply = world.llm.generate("What is 12 + 30?", task="math", max_tokens=8, deadline=0.15)
    in_time = Check("in time", reply.timings.total_ms <= 150.0)
    return answered(world, reply, before, "edge", in_time, left_out(reply.decision, "cloud", "would be late"))


def streaming(world: World) -> Outcome:
    """Token by token, as they come."""
    before = world.bytes_to_cloud
    pieces = 0
    with world.llm.stream(COUNT, task="math", max_tokens=96) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
            pieces += bool(chunk.text)
        print()
        reply = stream.generation
    early = Check(
        "the first token comes before half of the time is over", reply.timings.ttft_ms < reply.timings.total_ms / 2
    )
    return answered(world, reply, before, "cloud", Check("in many pieces", pieces > 10), early)


def concurrent(world: World) -> Outcome:
    """Six at once from one event loop: three on the device, three in the cloud."""
    before = world.bytes_to_cloud

    async def ask() -> list[Generation]:
        tasks = ["chat", "math"] * 3
        return await asyncio.gather(
            *(world.llm.agenerate(f"Count from {i} to 50.", task=task, max_tokens=32) for i, task in enumerate(tasks))
        )

    replies = asyncio.run(ask())
    where = [reply.backend for reply in replies]
    split = Check("three and three", where == ["edge", "cloud"] * 3)
    return answered(world, replies[1], before, "cloud", split)


def budget(world: World) -> Outcome:
    """A tenant has nearly spent its budget; what it spent is given, not earned. Another tenant is not touched."""
    reservation = world.ledger.reserve("trial", _SPENT, None)
    if reservation is not None:
        world.ledger.settle(reservation, _SPENT)
    paid = world.llm.generate("What is 61 + 27?", task="math", max_tokens=24, tenant="paying")
    booked = world.ledger.balance("paying").spent
    cost = PRICE.cost(paid.usage.prompt_tokens, paid.usage.completion_tokens)
    before = world.bytes_to_cloud
    reply = world.llm.generate("What is 61 + 27?", task="math", max_tokens=24, tenant="trial")
    checks = (
        left_out(reply.decision, "cloud", "the budget of 2 USD a day does not allow it"),
        Check("another tenant still gets the cloud", paid.backend == "cloud"),
        Check(f"and is booked what its answer cost: {booked / UNIT:.6f} USD", booked == cost > 0),
    )
    return answered(world, reply, before, "edge", *checks)
