"""The scenes of the demonstration, in order: first the policy decides, then something fails.

The policy decides by the request, the device, deadlines, spending and what may leave the device. Then a node is slow, a
node dies, a connection is lost, a policy file is invalid.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable
from typing import Any, Final

from hybrid_llm.cli.demo.real import converse
from hybrid_llm.cli.demo.world import PRICE, Check, Outcome, Scene, World, answered, by_rule, excluded, wait_until
from hybrid_llm.core.errors import PolicyError, RoutingError
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.savings import UNIT
from hybrid_llm.router.execution.stream import AsyncStream

SCENES: Final[list[Scene]] = []
_LONG: Final = " ".join(f"The box number {i} is on shelf {i % 7}." for i in range(120)) + " Where is the box number {}?"
_LARGER_MODEL: Final = "needs the larger model"
_SPENT: Final = 1_995_000_000
"""1.995 of the tenant's daily 2 USD, in billionths."""
_ADDRESSES: Final = ("jane.doe@example.org", "j.doe@example.com")
_PHONE: Final = "+1 202 555 0147"
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"send_to": {"enum": list(_ADDRESSES)}},
    "required": ["send_to"],
    "additionalProperties": False,
}
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


def _scene(title: str, about: str) -> Callable[[Callable[[World], Outcome]], Callable[[World], Outcome]]:
    """Add the decorated function to `SCENES`."""

    def add(play: Callable[[World], Outcome]) -> Callable[[World], Outcome]:
        SCENES.append(Scene(title, about, play))
        return play

    return add


@_scene("plain", "no special requirement")
def _plain(world: World) -> Outcome:
    reply = world.llm.generate("Is this review positive? 'A warm, funny film.'", max_tokens=24)
    return answered(world, reply, "edge", by_rule(reply, "edge first"))


@_scene("tagged phi", "tagged as private by the app")
def _tagged(world: World) -> Outcome:
    """A rule that prefers the cloud matches too, but cannot override the tag."""
    reply = world.llm.generate("What is 2210 + 1934?", privacy={"phi"}, task="math", max_tokens=24)
    return answered(world, reply, "edge", excluded(reply.decision, "cloud", "phi allows only edge"))


@_scene("private text", "the text contains a medical record number")
def _detected(world: World) -> Outcome:
    text = "Is this review positive? 'Patient number 77-1234 found the film warm and funny.'"
    reply = world.llm.generate(text, task="math", max_tokens=24)
    found = Check("the tag phi was detected", "phi" in reply.decision.tags)
    return answered(world, reply, "edge", found, excluded(reply.decision, "cloud", "phi allows only edge"))


@_scene("too long", "the prompt exceeds the edge model's context window")
def _too_long(world: World) -> Outcome:
    reply = world.llm.generate(_LONG.format(77), max_tokens=24)
    return answered(world, reply, "cloud", excluded(reply.decision, "edge", "does not fit"))


@_scene("personal data", "two email addresses and a phone number, for a form that a node fills in")
def _personal(world: World) -> Outcome:
    """Addresses and a phone number are pseudonymised before they leave, and restored in the answer.

    What the node received is read in its own process, behind TLS and the chat template. On the wire there is only
    ciphertext, which would prove nothing.
    """
    witnessed = world.nodes[0].witnessed  # all nodes log to one file
    seen = len(witnessed())
    text = f"Write to {_ADDRESSES[0]}, not to {_ADDRESSES[1]}, or call {_PHONE}. Where to send the bill?"
    reply = world.llm.generate(text, task="form", output_schema=_FORM, max_tokens=64)
    received = "\n".join(witnessed()[seen:])
    print(f"    the node received: {received}")
    address = reply.parsed.get("send_to") if isinstance(reply.parsed, dict) else None
    checks = (
        Check("the tag pii was detected", "pii" in reply.decision.tags),
        Check("the app gets a real address", address in _ADDRESSES and str(address) in reply.text),
        Check("the node received pseudonyms", "EMAIL_" in received and "TEL_" in received),
        Check("and no real address or number", not any(value in received for value in (*_ADDRESSES, _PHONE))),
    )
    return answered(world, reply, "cloud", *checks)


@_scene("device hot", "the device is at 91 degrees (simulated sensor)")
def _hot(world: World) -> Outcome:
    world.sensors.overrides = {"temperature_c": 91.0}
    reply = world.llm.generate("Is this review positive? 'Dull and far too long.'", max_tokens=24)
    return answered(world, reply, "cloud", by_rule(reply, "the device is hot"))


@_scene("battery low", "the battery is at 10 % and not charging (simulated sensor)")
def _battery(world: World) -> Outcome:
    world.sensors.overrides = {"battery": 0.1, "charging": False}
    reply = world.llm.generate("Is this review positive? 'A small gem.'", max_tokens=24)
    return answered(world, reply, "cloud", by_rule(reply, "the battery is low"))


@_scene("hard task", "the policy routes math to the larger model")
def _math(world: World) -> Outcome:
    reply = world.llm.generate("What is 4821 + 1937?", task="math", max_tokens=24)
    return answered(world, reply, "cloud", by_rule(reply, _LARGER_MODEL))


@_scene("repeated request", "a question that the cloud has answered before")
def _repeated(world: World) -> Outcome:
    first = world.llm.generate("What is 250 + 725?", task="math", max_tokens=24)
    world.reset_bytes_sent()
    reply = world.llm.generate("What is 250 + 725?", task="math", max_tokens=24)
    same = Check("the text is the same", reply.text == first.text and not first.cached)
    no_call = Check("no backend was called", world.events[-1].attempts == ())
    return answered(world, reply, "cloud", same, no_call, by="cloud (cached)", cached=True)


@_scene("short deadline", "150 ms, with a round trip of 200 ms to the nodes")
def _deadline(world: World) -> Outcome:
    reply = world.llm.generate("What is 12 + 30?", task="math", max_tokens=8, deadline=0.15)
    in_time = Check("within the deadline", reply.timings.total_ms <= 150.0)
    return answered(world, reply, "edge", in_time, excluded(reply.decision, "cloud", "too slow"))


@_scene("budget exhausted", "1.995 of 2 USD have been spent today (simulated)")
def _budget(world: World) -> Outcome:
    """One tenant has spent nearly all of its budget; another tenant is not affected."""
    reservation = world.ledger.reserve("trial", _SPENT, None)
    if reservation is not None:
        world.ledger.settle(reservation, _SPENT)
    paid = world.llm.generate("What is 61 + 27?", task="math", max_tokens=24, tenant="paying")
    charged = world.ledger.balance("paying").spent
    cost = PRICE.cost(paid.usage.prompt_tokens, paid.usage.completion_tokens)
    world.reset_bytes_sent()
    reply = world.llm.generate("What is 61 + 27?", task="math", max_tokens=24, tenant="trial")
    checks = (
        excluded(reply.decision, "cloud", "the budget of 2 USD a day does not allow it"),
        Check("another tenant still gets the cloud", paid.backend == "cloud"),
        Check(f"and is charged for its answer: {charged / UNIT:.6f} USD", charged == cost > 0),
    )
    return answered(world, reply, "edge", *checks)


@_scene("streaming", "token by token from a node")
def _streaming(world: World) -> Outcome:
    chunks = 0
    with world.llm.stream("Count from 3 to 40.", task="math", max_tokens=96) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
            chunks += bool(chunk.text)
    print()
    reply = stream.generation
    early = Check("the first token arrives in the first half", reply.timings.ttft_ms < reply.timings.total_ms / 2)
    return answered(world, reply, "cloud", Check("in many chunks", chunks > 10), early)


@_scene("async", "six concurrent requests on one event loop")
def _concurrent(world: World) -> Outcome:
    async def ask() -> list[Generation]:
        tasks = enumerate(["chat", "math"] * 3)
        return await asyncio.gather(
            *(world.llm.agenerate(f"Count from {i} to 50.", task=task, max_tokens=32) for i, task in tasks)
        )

    replies = asyncio.run(ask())
    backends = [reply.backend for reply in replies]
    split = Check("three on the edge, three in the cloud", backends == ["edge", "cloud"] * 3)
    return answered(world, replies[1], "cloud", split)


@_scene("slow node", "the node of a conversation stalls for longer than `hedge_after`")
def _slow_node(world: World) -> Outcome:
    """A conversation stays on its node. That node stalls: after two seconds the call is hedged, and the hedge wins."""
    sent = [line.bytes_to_node for line in world.lines]
    world.llm.generate("What is 31 + 22?", task="math", max_tokens=24, session_id="sums")
    own = max(range(len(sent)), key=lambda number: world.lines[number].bytes_to_node - sent[number])
    other_before = world.lines[1 - own].bytes_to_node
    world.reset_bytes_sent()
    world.lines[own].stalled = True
    reply = world.llm.generate("What is 44 + 17?", task="math", max_tokens=24, session_id="sums")
    errors = [attempt.error for attempt in world.events[-1].attempts]
    checks = (
        Check("the call of the stalled node was cancelled, the hedge answered", errors == ["Cancelled", ""]),
        Check("the hedge went to the other node", world.lines[1 - own].bytes_to_node > other_before),
        Check("after the two seconds of the policy", reply.timings.ttft_ms > _HEDGE_MS),
    )
    return answered(world, reply, "cloud", *checks, by="cloud (hedge)")


@_scene("a node is killed", "one of two, while six answers stream")
def _node_killed(world: World) -> Outcome:
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
    """Kill the busier node when each of six streams has begun, and read all to the end."""
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


@_scene("cut mid-stream", "the connection is lost after a dozen characters")
def _cut(world: World) -> Outcome:
    seen, is_cut = "", False
    with world.llm.stream("Count from 4 to 60.", task="math", max_tokens=150) as stream:
        for chunk in stream:
            seen += chunk.text
            if not is_cut and len(seen) >= _CUT_AFTER_CHARACTERS:
                is_cut = True
                print(f"    {seen} ... cut")
                for line in world.lines:
                    line.cut()
        reply = stream.generation
    at = reply.continuations[0].at if reply.continuations else 0
    checks = (
        Check("the decision preferred the cloud", reply.decision.order == ("cloud", "edge")),
        Check("one continuation, by edge", [one.backend for one in reply.continuations] == ["edge"]),
        Check(f"characters 0 to {at} came from the cloud", 0 < at < len(reply.text)),
        Check("the app got every character once", seen == reply.text),
        Check("the continuation is seamless", _is_seamless(reply)),
    )
    return Outcome(checks=checks, decision=reply.decision, reply=reply, by="cloud, then edge")


def _wait_for_breaker(world: World) -> None:
    """Wait until the breaker of the cloud lets calls through, one second after it opened."""
    wait_until(lambda: "cloud" in world.llm.decide("What is 1 + 1?", task="math").order)


@_scene("offline", "the other node is stopped too")
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


@_scene("offline, too long", "no backend is left: a typed error")
def _no_backend(world: World) -> Outcome:
    _wait_for_breaker(world)
    began = time.monotonic()
    try:
        reply = world.llm.generate(_LONG.format(78), max_tokens=24, deadline=5.0)
    except RoutingError as error:
        in_time = Check("within the deadline", time.monotonic() - began < 5.5)
        checks = (in_time, excluded(error.decision, "edge", "does not fit"))
        return Outcome(checks=checks, decision=error.decision, by=type(error).__name__)
    return answered(world, reply, "none")


@_scene("node restarted", "a node is started again")
def _restarted(world: World) -> Outcome:
    """A node is started again. The device answers until a probe finds the node."""
    world.start_node(0)
    until = time.monotonic() + _RETURN_TIMEOUT_S
    for on_edge in itertools.count():
        world.reset_bytes_sent()
        reply = world.llm.generate(f"What is 52 + {20 + on_edge}?", task="math", max_tokens=24)
        if reply.backend == "cloud" or time.monotonic() > until:
            break
        time.sleep(0.5)
    print(f"    the device answered {on_edge} requests in the meantime")
    return answered(world, reply, "cloud", by_rule(reply, _LARGER_MODEL))


@_scene("broken policy", "the policy file is replaced by one with three errors")
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


@_scene("fixed policy", "the policy file is fixed")
def _fixed_policy(world: World) -> Outcome:
    world.policy_path.write_text(world.policy_text().replace("name: demo", "name: fixed"), encoding="utf-8")
    wait_until(lambda: world.llm.policy.name == "fixed")
    reply = world.llm.generate("Is this review positive? 'A quiet, moving story.'", max_tokens=24)
    return answered(world, reply, "edge", Check("the new policy decides", reply.decision.policy == "fixed"))


SCENES.append(Scene("real model", "a conversation with SmolLM2-135M, added from the package index", converse))
