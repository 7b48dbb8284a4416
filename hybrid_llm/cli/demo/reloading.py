"""Scenes in which the policy's file changes under the running client."""

from __future__ import annotations

from typing import Final

from hybrid_llm.cli.demo.scene import Check, Outcome, answered, wait_until
from hybrid_llm.cli.demo.world import World
from hybrid_llm.router.errors import PolicyError

__all__ = ["broken_policy", "mended_policy"]

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
