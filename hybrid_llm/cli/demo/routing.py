"""Scenes in which the policy chooses: by the request, by the device, by time, by money.

Scenes about what may leave the device, and in which form.

Scenes in which the policy's file changes under the running client.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from hybrid_llm.cli.demo.scene import Check, Outcome, answered, by_rule, given, left_out, wait_until
from hybrid_llm.cli.demo.world import PRICE, World
from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.generation import Generation
from hybrid_llm.router.spending.ledger import UNIT

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


_ADDRESSES: Final = ("jane.doe@example.org", "j.doe@example.com")
_PHONE: Final = "+1 202 555 0147"
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"send_to": {"enum": list(_ADDRESSES)}},
    "required": ["send_to"],
    "additionalProperties": False,
}


def tagged(world: World) -> Outcome:
    """The app declares `phi`; the rule that prefers the cloud cannot weaken that."""
    before = world.bytes_to_cloud
    reply = world.llm.generate("What is 2210 + 1934?", privacy={"phi"}, task="math", max_tokens=24)
    return answered(world, reply, before, "edge", left_out(reply.decision, "cloud", "phi allows only edge"))


def detected(world: World) -> Outcome:
    """Nobody declared anything, but the text holds a medical record number."""
    before = world.bytes_to_cloud
    text = "Is this review positive? 'Patient number 77-1234 found the film warm and funny.'"
    reply = world.llm.generate(text, task="math", max_tokens=24)
    found = Check("the tag phi was found", "phi" in reply.decision.tags)
    return answered(world, reply, before, "edge", found, left_out(reply.decision, "cloud", "phi allows only edge"))


def personal(world: World) -> Outcome:
    """Addresses and a number go to a node under pseudonyms, and the app gets the real address back.

    What the node was told is read where nothing stands between it and the model: in its own process, behind TLS and the
    chat template. On the wire there is only ciphertext, which would prove nothing.
    """
    before, told_before = world.bytes_to_cloud, len(world.told_to_nodes())
    text = f"Write to {_ADDRESSES[0]}, not to {_ADDRESSES[1]}, or call {_PHONE}. Where to send the bill?"
    reply = world.llm.generate(text, task="form", output_schema=_FORM, max_tokens=64)
    told = "\n".join(world.told_to_nodes()[told_before:])
    print(f"    the node was told: {told}")
    parsed = reply.parsed
    address = parsed.get("send_to") if isinstance(parsed, dict) else None
    checks = (
        Check("the tag pii was found", "pii" in reply.decision.tags),
        Check("the app gets a real address back", address in _ADDRESSES and str(address) in reply.text),
        Check("the node was told pseudonyms", "EMAIL_" in told and "PHONE_" in told),
        Check("and neither address nor number", not any(value in told for value in (*_ADDRESSES, _PHONE))),
    )
    return answered(world, reply, before, "cloud", *checks)


_BROKEN: Final = """\
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


def broken_policy(world: World) -> Outcome:
    """A policy with three errors is written over the good one: all three are told, and the good one keeps serving."""
    good = world.llm.policy.digest
    world.policy_path.write_text(_BROKEN, encoding="utf-8")
    wait_until(lambda: world.policies.error is not None)
    told = world.policies.error
    print(told)
    before = world.bytes_to_cloud
    reply = world.llm.generate("Is this review positive? 'I wanted my money back.'", max_tokens=24)
    checks = (
        Check("it is refused, with all three errors", isinstance(told, PolicyError) and len(told.errors) == 3),
        Check("each with its line", told is not None and [error.line for error in told.errors] == [4, 8, 11]),
        Check("the old one decides", reply.decision.digest == good),
    )
    return answered(world, reply, before, "edge", *checks)


def mended_policy(world: World) -> Outcome:
    """The file is mended: the new policy decides, without a restart."""
    mended = world.policy_text().replace("name: demo", "name: mended")
    world.policy_path.write_text(mended, encoding="utf-8")
    wait_until(lambda: world.llm.policy.name == "mended")
    before = world.bytes_to_cloud
    reply = world.llm.generate("Is this review positive? 'A quiet, moving story.'", max_tokens=24)
    return answered(world, reply, before, "edge", Check("the new one decides", reply.decision.policy == "mended"))
