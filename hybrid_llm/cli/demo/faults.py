"""Scenes in which something breaks: a line, a node, all nodes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from hybrid_llm.cli.demo.routing import BECAUSE, LONG
from hybrid_llm.cli.demo.scene import Check, Outcome, answered, by_rule, left_out, wait_until
from hybrid_llm.cli.demo.world import World
from hybrid_llm.core.errors import RoutingError
from hybrid_llm.core.generation import Generation
from hybrid_llm.router.execution.answer import AsyncStream

_HEDGE_MS: Final = 2000.0
"""As the policy has it."""
_CHARACTERS: Final = 12
_AT_ONCE: Final = 6
_BACK_S: Final = 15.0
"""Longest that a node which is there again may go unasked: it is ejected for five seconds at a time."""


def cut(world: World) -> Outcome:
    """The network is lost when a dozen characters are there. The device writes the rest of the answer."""
    before, seen, is_cut = world.bytes_to_cloud, [""], False
    try:
        with world.llm.stream("Count from 4 to 60.", task="math", max_tokens=150) as stream:
            for chunk in stream:
                seen.append(chunk.text)
                if not is_cut and len("".join(seen)) >= _CHARACTERS:
                    is_cut = True
                    print(f"    {''.join(seen)} ... cut")
                    for line in world.lines:
                        line.cut()
            reply = stream.generation
    finally:
        for line in world.lines:
            line.mend()
    at = reply.continuations[0].at if reply.continuations else 0
    checks = (
        Check("the decision had the cloud first", reply.decision.order == ("cloud", "edge")),
        Check(
            "edge ends the answer, which has one continuation",
            [one.backend for one in reply.continuations] == ["edge"],
        ),
        Check(f"characters 0 to {at} came from the cloud", 0 < at < len(reply.text)),
        Check("the app got every character once", "".join(seen) == reply.text),
        Check("across the continuation the count goes on", _is_seamless(reply)),
    )
    sent = world.bytes_to_cloud - before
    return Outcome(checks=checks, decision=reply.decision, reply=reply, by="cloud, then edge", bytes_to_cloud=sent)


def _is_seamless(reply: Generation) -> bool:
    """Whether the numbers around each continuation follow one another."""
    numbers = [(int(match[0]), match.end()) for match in re.finditer(r"\d+", reply.text)]
    for continuation in reply.continuations:
        near = [number for number, end in numbers if continuation.at - 12 < end <= continuation.at + 6]
        if len(near) < 2 or near != list(range(near[0], near[0] + len(near))):
            return False
    return True


def _breaker_lets_through(world: World) -> None:
    """Wait until the cloud may be asked again, as it may a second after it failed."""
    wait_until(lambda: "cloud" in world.llm.decide("What is 1 + 1?", task="math").order)


@contextmanager
def _silenced(world: World, number: int) -> Iterator[None]:
    world.lines[number].silent = True
    try:
        yield
    finally:
        world.lines[number].silent = False


def silent(world: World) -> Outcome:
    """A conversation stays with its node. That one falls silent: after two seconds another is asked, and wins."""
    sent = [line.bytes_to_node for line in world.lines]
    world.llm.generate("What is 31 + 22?", task="math", max_tokens=24, session_id="sums")
    own = max(range(len(sent)), key=lambda number: world.lines[number].bytes_to_node - sent[number])
    rival, before = world.lines[1 - own], world.bytes_to_cloud
    rival_before = rival.bytes_to_node
    with _silenced(world, own):
        reply = world.llm.generate("What is 44 + 17?", task="math", max_tokens=24, session_id="sums")
    ends = [attempt.error for attempt in world.events[-1].attempts]
    checks = (
        Check("the node of the conversation was cancelled, its rival answered", ends == ["Cancelled", ""]),
        Check("the rival is the other node", rival.bytes_to_node > rival_before),
        Check("after the two seconds of the policy", reply.timings.ttft_ms > _HEDGE_MS),
    )
    return answered(world, reply, before, "cloud", *checks, by="cloud, the rival")


def node_gone(world: World) -> Outcome:
    """Six answers stream when one of the two nodes loses its power. Each of the six comes to its end."""
    before = [line.bytes_to_node for line in world.lines]
    replies, killed = asyncio.run(_ask_and_kill(world, before))
    events = world.events[-_AT_ONCE:]
    moved = sum(any(attempt.error for attempt in event.attempts) for event in events)
    checks = (
        Check(f"node {killed + 1} is gone", world.nodes[killed].pid == 0),
        Check("six answers, none with an error", len(replies) == _AT_ONCE and not any(event.error for event in events)),
        Check(f"{moved} of them were taken over by the other node", moved > 0),
        Check("all from the cloud", {reply.backend for reply in replies} == {"cloud"}),
        Check("across each continuation the count goes on", all(_is_seamless(reply) for reply in replies)),
    )
    sent = world.bytes_to_cloud - sum(before)
    shown = next((reply for reply in replies if reply.continuations), replies[0])
    return Outcome(checks=checks, decision=shown.decision, reply=shown, by="cloud, other node", bytes_to_cloud=sent)


async def _ask_and_kill(world: World, before: list[int]) -> tuple[list[Generation], int]:
    """Start six streams, kill the busier node once each has begun, and read all to their end."""
    streams = [world.llm.astream(f"Count from {first} to 90.", task="math", max_tokens=96) for first in range(5, 11)]
    await asyncio.gather(*(anext(aiter(stream)) for stream in streams))
    asked = [line.bytes_to_node - sent for line, sent in zip(world.lines, before, strict=True)]
    busier = asked.index(max(asked))
    world.nodes[busier].kill()
    return list(await asyncio.gather(*(_rest(stream) for stream in streams))), busier


async def _rest(stream: AsyncStream) -> Generation:
    async for _ in stream:
        pass
    return stream.generation


def offline(world: World) -> Outcome:
    """No node is left. The cloud is still preferred, and cannot be reached: the device takes over."""
    for node in world.nodes:
        node.stop()
    _breaker_lets_through(world)
    before = world.bytes_to_cloud
    reply = world.llm.generate("What is 77 + 18?", task="math", max_tokens=24)
    checks = (
        Check("the cloud was to be asked first", reply.decision.order == ("cloud", "edge")),
        Check("edge answers", reply.backend == "edge"),
    )
    sent = world.bytes_to_cloud - before
    return Outcome(checks=checks, decision=reply.decision, reply=reply, bytes_to_cloud=sent)


def nobody(world: World) -> Outcome:
    """Too long for the device while no node is there: a typed error says why, and nothing hangs."""
    _breaker_lets_through(world)
    before, began = world.bytes_to_cloud, time.monotonic()
    try:
        reply = world.llm.generate(LONG.format(78), max_tokens=24, deadline=5.0)
    except RoutingError as error:
        quick = Check("within the deadline", time.monotonic() - began < 5.5)
        sent = world.bytes_to_cloud - before
        checks = (quick, left_out(error.decision, "edge", "does not fit"))
        return Outcome(checks=checks, decision=error.decision, by=type(error).__name__, bytes_to_cloud=sent)
    return answered(world, reply, before, "nobody")


def back(world: World) -> Outcome:
    """A node is started again. Breakers let single requests find that out, and the device answers until then."""
    world.start_node(0)
    until, number, asked_edge = time.monotonic() + _BACK_S, 20, 0
    while True:
        before = world.bytes_to_cloud
        reply = world.llm.generate(f"What is 52 + {number}?", task="math", max_tokens=24)
        if reply.backend == "cloud" or time.monotonic() > until:
            break
        number, asked_edge = number + 1, asked_edge + 1
        time.sleep(0.5)
    print(f"    {asked_edge} requests were answered by the device meanwhile")
    return answered(world, reply, before, "cloud", by_rule(reply, BECAUSE))
