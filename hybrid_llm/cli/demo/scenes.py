"""The requests of the demonstration: what each one does, and what must come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from hybrid_llm.cli.demo.world import World
from hybrid_llm.router.errors import HybridLLMError, PolicyError, RoutingError
from hybrid_llm.router.types import Decision, Generation

__all__ = ["SCENES", "Check", "Outcome", "Scene"]

REVIEW: Final = "Is this review positive? 'A warm, funny film.'"
MATH: Final = "What is 4821 + 1937?"
COUNT: Final = "Count from 3 to 40."
RECORD: Final = "Is this review positive? 'Patient number 77-1234 found the film warm and funny.'"
LONG_FACTS: Final = " ".join(f"The box number {i} is on shelf {i % 7}." for i in range(120))

BROKEN_POLICY: Final = """\
version: 1
name: broken
rules:
  - exclude: egde
    when: request.prompt_tokens > 10
    because: a name that does not exist
  - prefer: [edge]
    when: device.batery < 20%
    because: another one
  - prefer: [edge, cloud]
    when: request.max_tokens > "many"
    because: a number is not a text
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation, and whether it came true."""

    text: str
    true: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one scene showed: a line of the table, and its checks."""

    checks: tuple[Check, ...]
    decision: Decision | None = None
    reply: Generation | None = None
    ending: str = ""
    """Said in place of a backend where nobody answered."""
    bytes_to_cloud: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """*title* names the request; *said* tells a person what is special about it."""

    title: str
    said: str
    play: Callable[[World], Outcome]


@contextmanager
def _given(world: World, **values: float | bool) -> Iterator[None]:
    world.sensors.given = values
    try:
        yield
    finally:
        world.sensors.given = {}


def _answered(world: World, reply: Generation, before: int, backend: str, *more: Check) -> Outcome:
    sent = world.proxy.bytes_to_node - before
    checks = (
        Check(f"{backend} answers", reply.backend == backend),
        Check("there is an answer", bool(reply.text.strip())),
        Check(
            "bytes go to the cloud" if backend == "cloud" else "0 bytes go to the cloud",
            (sent > 0) == (backend == "cloud"),
        ),
    )
    return Outcome(checks=checks + more, decision=reply.decision, reply=reply, bytes_to_cloud=sent)


def _rule(reply: Generation, because: str) -> Check:
    return Check(f"because {because}", because in reply.decision.because)


def _out(decision: Decision, backend: str, why: str) -> Check:
    return Check(f"{backend} is out: {why}", why in decision.excluded.get(backend, ""))


def plain(world: World) -> Outcome:
    """Nothing special: the device answers."""
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(REVIEW, max_tokens=24)
    return _answered(world, reply, before, "edge", _rule(reply, "the device first"))


def tagged(world: World) -> Outcome:
    """The app declares `phi`; the rule that prefers the cloud cannot weaken that."""
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(MATH, privacy={"phi"}, task="math", max_tokens=24)
    return _answered(world, reply, before, "edge", _out(reply.decision, "cloud", "phi allows only edge"))


def detected(world: World) -> Outcome:
    """Nobody declared anything, but the text holds a medical record number."""
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(RECORD, task="math", max_tokens=24)
    found = Check("the tag phi was found", "phi" in reply.decision.tags)
    return _answered(world, reply, before, "edge", found, _out(reply.decision, "cloud", "phi allows only edge"))


def too_long(world: World) -> Outcome:
    """More tokens than the device's model can hold."""
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(f"{LONG_FACTS} Where is the box number 77?", max_tokens=24)
    return _answered(world, reply, before, "cloud", _out(reply.decision, "edge", "does not fit"))


def hot(world: World) -> Outcome:
    """The thermometer is given, not read."""
    before = world.proxy.bytes_to_node
    with _given(world, temperature_c=91.0):
        reply = world.llm.generate(REVIEW, max_tokens=24)
    return _answered(world, reply, before, "cloud", _rule(reply, "the device is hot"))


def battery(world: World) -> Outcome:
    """The battery is given, not read."""
    before = world.proxy.bytes_to_node
    with _given(world, battery=0.1, charging=False):
        reply = world.llm.generate(REVIEW, max_tokens=24)
    return _answered(world, reply, before, "cloud", _rule(reply, "the battery is low"))


def math(world: World) -> Outcome:
    """A task that the policy gives to the larger model."""
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(MATH, task="math", max_tokens=24)
    return _answered(world, reply, before, "cloud", _rule(reply, "math is for the larger model"))


def deadline(world: World) -> Outcome:
    """The same task, but within 150 ms: the node is 200 ms away and back."""
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(MATH, task="math", max_tokens=8, deadline=0.15)
    in_time = Check("in time", reply.timings.total_ms <= 150.0)
    return _answered(world, reply, before, "edge", in_time, _out(reply.decision, "cloud", "would be late"))


def streaming(world: World) -> Outcome:
    """Token by token, as they come."""
    before = world.proxy.bytes_to_node
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
    return _answered(world, reply, before, "cloud", Check("in many pieces", pieces > 10), early)


def concurrent(world: World) -> Outcome:
    """Six at once from one event loop: three on the device, three in the cloud."""
    before = world.proxy.bytes_to_node

    async def ask() -> list[Generation]:
        tasks = ["chat", "math"] * 3
        return await asyncio.gather(*(world.llm.agenerate(COUNT, task=task, max_tokens=32) for task in tasks))

    replies = asyncio.run(ask())
    where = [reply.backend for reply in replies]
    split = Check("three and three", where == ["edge", "cloud"] * 3)
    return _answered(world, replies[1], before, "cloud", split)


def offline(world: World) -> Outcome:
    """The node is stopped. The cloud is still preferred, and cannot be reached: the device takes over."""
    world.node.stop()
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(MATH, task="math", max_tokens=24)
    checks = (
        Check("the cloud was to be asked first", reply.decision.order == ("cloud", "edge")),
        Check("edge answers", reply.backend == "edge"),
    )
    sent = world.proxy.bytes_to_node - before
    return Outcome(checks=checks, decision=reply.decision, reply=reply, bytes_to_cloud=sent)


def nobody(world: World) -> Outcome:
    """Too long for the device while the node is away: a typed error says why, and nothing hangs."""
    before, began = world.proxy.bytes_to_node, time.monotonic()
    try:
        reply = world.llm.generate(f"{LONG_FACTS} Where is the box number 77?", max_tokens=24, deadline=5.0)
    except RoutingError as error:
        quick = Check("within the deadline", time.monotonic() - began < 5.5)
        sent = world.proxy.bytes_to_node - before
        checks = (quick, _out(error.decision, "edge", "does not fit"))
        return Outcome(checks=checks, decision=error.decision, ending=type(error).__name__, bytes_to_cloud=sent)
    return _answered(world, reply, before, "nobody")


def back(world: World) -> Outcome:
    """The node is started again, and the breaker lets a request find out."""
    world.start_node()
    time.sleep(1.1)
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(MATH, task="math", max_tokens=24)
    return _answered(world, reply, before, "cloud", _rule(reply, "math is for the larger model"))


def broken_policy(world: World) -> Outcome:
    """A policy with three errors is written over the good one: all three are told, and the good one keeps serving."""
    good = world.llm.policy.digest
    world.policy_path.write_text(BROKEN_POLICY, encoding="utf-8")
    _wait(lambda: world.policies.error is not None)
    told = world.policies.error
    print(told)
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(REVIEW, max_tokens=24)
    checks = (
        Check("it is refused, with all three errors", isinstance(told, PolicyError) and len(told.errors) == 3),
        Check("each with its line", told is not None and [error.line for error in told.errors] == [4, 8, 11]),
        Check("the old one decides", reply.decision.digest == good),
    )
    return _answered(world, reply, before, "edge", *checks)


def mended_policy(world: World) -> Outcome:
    """The file is mended: the new policy decides, without a restart."""
    mended = world.policy_text().replace("name: demo", "name: mended")
    world.policy_path.write_text(mended, encoding="utf-8")
    _wait(lambda: world.llm.policy.name == "mended")
    before = world.proxy.bytes_to_node
    reply = world.llm.generate(REVIEW, max_tokens=24)
    return _answered(world, reply, before, "edge", Check("the new one decides", reply.decision.policy == "mended"))


def _wait(until: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.02)


def failed(error: HybridLLMError) -> Outcome:
    """What a scene shows that ended in an error nobody expected."""
    return Outcome(checks=(Check(f"no {type(error).__name__}: {error}", False),), ending=type(error).__name__)


SCENES: Final = (
    Scene("plain", "nothing special", plain),
    Scene("tagged phi", "declared private by the app", tagged),
    Scene("private text", "a medical record number is found in it", detected),
    Scene("too long", "more than the device's model can hold", too_long),
    Scene("device hot", "91 degrees, a given signal", hot),
    Scene("battery low", "10 %, not charging, given signals", battery),
    Scene("hard task", "the policy gives math to the larger model", math),
    Scene("short deadline", "150 ms, and the node is 200 ms away and back", deadline),
    Scene("streaming", "token by token from the node", streaming),
    Scene("async", "six at once from one event loop", concurrent),
    Scene("offline", "the node is stopped", offline),
    Scene("offline, too long", "nobody is left: a typed error", nobody),
    Scene("back", "the node is started again", back),
    Scene("broken policy", "three errors, written over the good one", broken_policy),
    Scene("mended policy", "the file is put right", mended_policy),
)
