"""Scenes about what may leave the device, and in which form."""

from __future__ import annotations

from typing import Any, Final

from hybrid_llm.cli.demo.scene import Check, Outcome, answered, left_out
from hybrid_llm.cli.demo.world import World

__all__ = ["detected", "personal", "tagged"]

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
