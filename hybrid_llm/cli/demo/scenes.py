"""Scenes in which the policy decides: by the request, the device, deadlines, spending and what may leave the device."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from hybrid_llm.cli.demo.world import (
    PRICE,
    Check,
    Outcome,
    Scene,
    World,
    answered,
    by_rule,
    excluded,
    sensor_values,
)
from hybrid_llm.core.generation import Generation
from hybrid_llm.router.spending.ledger import UNIT

LONG: Final = " ".join(f"The box number {i} is on shelf {i % 7}." for i in range(120)) + " Where is the box number {}?"
LARGER_MODEL: Final = "needs the larger model"
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


def _plain(world: World) -> Outcome:
    reply = world.llm.generate("Is this review positive? 'A warm, funny film.'", max_tokens=24)
    return answered(world, reply, "edge", by_rule(reply, "edge first"))


def _tagged(world: World) -> Outcome:
    """A rule that prefers the cloud matches too, but cannot override the tag."""
    reply = world.llm.generate("What is 2210 + 1934?", privacy={"phi"}, task="math", max_tokens=24)
    return answered(world, reply, "edge", excluded(reply.decision, "cloud", "phi allows only edge"))


def _detected(world: World) -> Outcome:
    text = "Is this review positive? 'Patient number 77-1234 found the film warm and funny.'"
    reply = world.llm.generate(text, task="math", max_tokens=24)
    found = Check("the tag phi was detected", "phi" in reply.decision.tags)
    return answered(world, reply, "edge", found, excluded(reply.decision, "cloud", "phi allows only edge"))


def _too_long(world: World) -> Outcome:
    reply = world.llm.generate(LONG.format(77), max_tokens=24)
    return answered(world, reply, "cloud", excluded(reply.decision, "edge", "does not fit"))


def _personal(world: World) -> Outcome:
    """Addresses and a phone number are pseudonymised before they leave, and restored in the answer.

    What the node received is read in its own process, behind TLS and the chat template. On the wire there is only
    ciphertext, which would prove nothing.
    """
    seen = len(world.received_by_nodes())
    text = f"Write to {_ADDRESSES[0]}, not to {_ADDRESSES[1]}, or call {_PHONE}. Where to send the bill?"
    reply = world.llm.generate(text, task="form", output_schema=_FORM, max_tokens=64)
    received = "\n".join(world.received_by_nodes()[seen:])
    print(f"    the node received: {received}")
    address = reply.parsed.get("send_to") if isinstance(reply.parsed, dict) else None
    checks = (
        Check("the tag pii was detected", "pii" in reply.decision.tags),
        Check("the app gets a real address", address in _ADDRESSES and str(address) in reply.text),
        Check("the node received pseudonyms", "EMAIL_" in received and "PHONE_" in received),
        Check("and no real address or number", not any(value in received for value in (*_ADDRESSES, _PHONE))),
    )
    return answered(world, reply, "cloud", *checks)


def _hot(world: World) -> Outcome:
    with sensor_values(world, temperature_c=91.0):
        reply = world.llm.generate("Is this review positive? 'Dull and far too long.'", max_tokens=24)
    return answered(world, reply, "cloud", by_rule(reply, "the device is hot"))


def _battery(world: World) -> Outcome:
    with sensor_values(world, battery=0.1, charging=False):
        reply = world.llm.generate("Is this review positive? 'A small gem.'", max_tokens=24)
    return answered(world, reply, "cloud", by_rule(reply, "the battery is low"))


def _math(world: World) -> Outcome:
    reply = world.llm.generate("What is 4821 + 1937?", task="math", max_tokens=24)
    return answered(world, reply, "cloud", by_rule(reply, LARGER_MODEL))


def _repeated(world: World) -> Outcome:
    """The second time the client's cache has the answer, as the request's tags allow."""
    first = world.llm.generate("What is 250 + 725?", task="math", max_tokens=24)
    world.reset_bytes_sent()
    reply = world.llm.generate("What is 250 + 725?", task="math", max_tokens=24)
    same = Check("the text is the same", reply.text == first.text and not first.cached)
    no_call = Check("no backend was called", world.events[-1].attempts == ())
    return answered(world, reply, "cloud", same, no_call, by="cloud (cached)", cached=True)


def _deadline(world: World) -> Outcome:
    """A task for the larger model within 150 ms, with a round trip of 200 ms to the nodes."""
    reply = world.llm.generate("What is 12 + 30?", task="math", max_tokens=8, deadline=0.15)
    in_time = Check("within the deadline", reply.timings.total_ms <= 150.0)
    return answered(world, reply, "edge", in_time, excluded(reply.decision, "cloud", "too slow"))


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


def _concurrent(world: World) -> Outcome:
    tasks = ["chat", "math"] * 3

    async def ask() -> list[Generation]:
        return await asyncio.gather(
            *(world.llm.agenerate(f"Count from {i} to 50.", task=task, max_tokens=32) for i, task in enumerate(tasks))
        )

    replies = asyncio.run(ask())
    split = Check(
        "three on the edge, three in the cloud", [reply.backend for reply in replies] == ["edge", "cloud"] * 3
    )
    return answered(world, replies[1], "cloud", split)


SCENES: Final = (
    Scene("plain", "no special requirement", _plain),
    Scene("tagged phi", "tagged as private by the app", _tagged),
    Scene("private text", "the text contains a medical record number", _detected),
    Scene("too long", "the prompt exceeds the edge model's context window", _too_long),
    Scene("personal data", "two email addresses and a phone number, for a form that a node fills in", _personal),
    Scene("device hot", "the device is at 91 degrees (simulated sensor)", _hot),
    Scene("battery low", "the battery is at 10 % and not charging (simulated sensor)", _battery),
    Scene("hard task", "the policy routes math to the larger model", _math),
    Scene("repeated request", "a question that the cloud has answered before", _repeated),
    Scene("short deadline", "150 ms, with a round trip of 200 ms to the nodes", _deadline),
    Scene("budget exhausted", "1.995 of 2 USD have been spent today (simulated)", _budget),
    Scene("streaming", "token by token from a node", _streaming),
    Scene("async", "six concurrent requests on one event loop", _concurrent),
)
