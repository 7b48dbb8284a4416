"""Scenes in which something fails: a slow node, a dead node, a lost connection, an invalid policy."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from hybrid_llm.cli.demo.scenes import LARGER_MODEL, LONG
from hybrid_llm.cli.demo.world import Check, Outcome, Scene, World, answered, by_rule, excluded, wait_until
from hybrid_llm.core.errors import PolicyError, RoutingError
from hybrid_llm.core.generation import Generation
from hybrid_llm.router.execution.answer import AsyncStream

_HEDGE_MS: Final = 2000.0
"""`hedge_after` in policy.yaml."""
_CUT_AFTER_CHARACTERS: Final = 12
_CONCURRENT: Final = 6
_RETURN_TIMEOUT_S: Final = 15.0
"""Maximum time until a restarted node is used again: it is ejected for five seconds at a time."""
_BROKEN: Final = """\
version: 1
name: broken
rules:
  - exclude: egde
    when: request.prompt_tokens > 10
    because: an unknown backend
  - prefer: [edge]
    when: device.batery < 20%
    because: an unknown signal
  - prefer: [edge, cloud]
    when: request.max_tokens > "many"
    because: a number compared with a text
"""


def _slow_node(world: World) -> Outcome:
    """A conversation stays on its node. That node stalls: after two seconds the call is hedged, and the hedge wins."""
    sent = [line.bytes_to_node for line in world.lines]
    world.llm.generate("What is 31 + 22?", task="math", max_tokens=24, session_id="sums")
    own = max(range(len(sent)), key=lambda number: world.lines[number].bytes_to_node - sent[number])
    other_before = world.lines[1 - own].bytes_to_node
    world.reset_bytes_sent()
    with _stalled(world, own):
        reply = world.llm.generate("What is 44 + 17?", task="math", max_tokens=24, session_id="sums")
    errors = [attempt.error for attempt in world.events[-1].attempts]
    checks = (
        Check("the call of the stalled node was cancelled, the hedge answered", errors == ["Cancelled", ""]),
        Check("the hedge went to the other node", world.lines[1 - own].bytes_to_node > other_before),
        Check("after the two seconds of the policy", reply.timings.ttft_ms > _HEDGE_MS),
    )
    return answered(world, reply, "cloud", *checks, by="cloud (hedge)")


@contextmanager
def _stalled(world: World, number: int) -> Iterator[None]:
    world.lines[number].stalled = True
    try:
        yield
    finally:
        world.lines[number].stalled = False


def _node_killed(world: World) -> Outcome:
    """Six answers are streaming when one of the two nodes is killed. All six are completed."""
    replies, killed = asyncio.run(_ask_and_kill(world))
    events = world.events[-_CONCURRENT:]
    moved = sum(any(attempt.error for attempt in event.attempts) for event in events)
    complete = len(replies) == _CONCURRENT and not any(event.error for event in events)
    checks = (
        Check(f"node {killed + 1} is dead", world.nodes[killed].pid == 0),
        Check("six answers, no error", complete),
        Check(f"{moved} of them were continued by the other node", moved > 0),
        Check("all from the cloud", {reply.backend for reply in replies} == {"cloud"}),
        Check("each continuation is seamless", all(_is_seamless(reply) for reply in replies)),
    )
    shown = next((reply for reply in replies if reply.continuations), replies[0])
    return Outcome(checks=checks, decision=shown.decision, reply=shown, by="cloud, other node")


async def _ask_and_kill(world: World) -> tuple[list[Generation], int]:
    """Start six streams, kill the busier node when each has begun, and read all to the end."""
    before = [line.bytes_to_node for line in world.lines]
    streams = [world.llm.astream(f"Count from {first} to 90.", task="math", max_tokens=96) for first in range(5, 11)]
    await asyncio.gather(*(anext(aiter(stream)) for stream in streams))
    sent = [line.bytes_to_node - earlier for line, earlier in zip(world.lines, before, strict=True)]
    busier = sent.index(max(sent))
    world.nodes[busier].kill()
    return list(await asyncio.gather(*(_read(stream) for stream in streams))), busier


async def _read(stream: AsyncStream) -> Generation:
    async for _ in stream:
        pass
    return stream.generation


def _is_seamless(reply: Generation) -> bool:
    """Whether the numbers around each continuation are consecutive."""
    numbers = [(int(match[0]), match.end()) for match in re.finditer(r"\d+", reply.text)]
    for continuation in reply.continuations:
        near = [number for number, end in numbers if continuation.at - 12 < end <= continuation.at + 6]
        if len(near) < 2 or near != list(range(near[0], near[0] + len(near))):
            return False
    return True


def _cut(world: World) -> Outcome:
    """The connection is cut after a dozen characters, and the device continues the answer."""
    seen, is_cut = [""], False
    try:
        with world.llm.stream("Count from 4 to 60.", task="math", max_tokens=150) as stream:
            for chunk in stream:
                seen.append(chunk.text)
                if not is_cut and len("".join(seen)) >= _CUT_AFTER_CHARACTERS:
                    is_cut = True
                    print(f"    {''.join(seen)} ... cut")
                    for line in world.lines:
                        line.cut()
            reply = stream.generation
    finally:
        for line in world.lines:
            line.restore()
    at = reply.continuations[0].at if reply.continuations else 0
    checks = (
        Check("the decision preferred the cloud", reply.decision.order == ("cloud", "edge")),
        Check("one continuation, by edge", [one.backend for one in reply.continuations] == ["edge"]),
        Check(f"characters 0 to {at} came from the cloud", 0 < at < len(reply.text)),
        Check("the app got every character once", "".join(seen) == reply.text),
        Check("the continuation is seamless", _is_seamless(reply)),
    )
    return Outcome(checks=checks, decision=reply.decision, reply=reply, by="cloud, then edge")


def _wait_for_breaker(world: World) -> None:
    """Wait until the breaker of the cloud lets calls through, one second after it opened."""
    wait_until(lambda: "cloud" in world.llm.decide("What is 1 + 1?", task="math").order)


def _offline(world: World) -> Outcome:
    """No node is left. The cloud is still preferred but unreachable: the request falls back to the device."""
    for node in world.nodes:
        node.stop()
    _wait_for_breaker(world)
    reply = world.llm.generate("What is 77 + 18?", task="math", max_tokens=24)
    checks = (
        Check("the decision preferred the cloud", reply.decision.order == ("cloud", "edge")),
        Check("answered by edge", reply.backend == "edge"),
    )
    return Outcome(checks=checks, decision=reply.decision, reply=reply)


def _no_backend(world: World) -> Outcome:
    """The prompt is too long for the device and no node is left: a typed error says why, in time."""
    _wait_for_breaker(world)
    began = time.monotonic()
    try:
        reply = world.llm.generate(LONG.format(78), max_tokens=24, deadline=5.0)
    except RoutingError as error:
        in_time = Check("within the deadline", time.monotonic() - began < 5.5)
        checks = (in_time, excluded(error.decision, "edge", "does not fit"))
        return Outcome(checks=checks, decision=error.decision, by=type(error).__name__)
    return answered(world, reply, "none")


def _restarted(world: World) -> Outcome:
    """A node is started again. The device answers until a probe finds the node."""
    world.start_node(0)
    until, number, on_edge = time.monotonic() + _RETURN_TIMEOUT_S, 20, 0
    while True:
        world.reset_bytes_sent()
        reply = world.llm.generate(f"What is 52 + {number}?", task="math", max_tokens=24)
        if reply.backend == "cloud" or time.monotonic() > until:
            break
        number, on_edge = number + 1, on_edge + 1
        time.sleep(0.5)
    print(f"    the device answered {on_edge} requests in the meantime")
    return answered(world, reply, "cloud", by_rule(reply, LARGER_MODEL))


def _broken_policy(world: World) -> Outcome:
    """The policy file is replaced by an invalid one: every error is reported, and the old policy stays in effect."""
    digest = world.llm.policy.digest
    world.policy_path.write_text(_BROKEN, encoding="utf-8")
    wait_until(lambda: world.policies.error is not None)
    error = world.policies.error
    print(error)
    reply = world.llm.generate("Is this review positive? 'I wanted my money back.'", max_tokens=24)
    checks = (
        Check("it is rejected, with all three errors", isinstance(error, PolicyError) and len(error.errors) == 3),
        Check("each with its line", error is not None and [one.line for one in error.errors] == [4, 8, 11]),
        Check("the old policy decides", reply.decision.digest == digest),
    )
    return answered(world, reply, "edge", *checks)


def _fixed_policy(world: World) -> Outcome:
    """The policy file is fixed: the new policy takes effect without a restart."""
    world.policy_path.write_text(world.policy_text().replace("name: demo", "name: fixed"), encoding="utf-8")
    wait_until(lambda: world.llm.policy.name == "fixed")
    reply = world.llm.generate("Is this review positive? 'A quiet, moving story.'", max_tokens=24)
    return answered(world, reply, "edge", Check("the new policy decides", reply.decision.policy == "fixed"))


SCENES: Final = (
    Scene("slow node", "the node of a conversation stalls for longer than `hedge_after`", _slow_node),
    Scene("a node is killed", "one of two, while six answers stream", _node_killed),
    Scene("cut mid-stream", "the connection is lost after a dozen characters", _cut),
    Scene("offline", "the other node is stopped too", _offline),
    Scene("offline, too long", "no backend is left: a typed error", _no_backend),
    Scene("node restarted", "a node is started again", _restarted),
    Scene("broken policy", "the policy file is replaced by one with three errors", _broken_policy),
    Scene("fixed policy", "the policy file is fixed", _fixed_policy),
)
