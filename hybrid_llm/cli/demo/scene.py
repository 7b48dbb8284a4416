"""The nouns of the demonstration: a scene, what came of it, and the expectations that most scenes share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hybrid_llm.cli.demo.world import World
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Generation


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
    by: str = ""
    """Said in place of a backend, where nobody answered or a name alone says too little."""
    bytes_to_cloud: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """*title* names the request; *said* tells a person what is special about it."""

    title: str
    said: str
    play: Callable[[World], Outcome]


@contextmanager
def given(world: World, **values: float | bool) -> Iterator[None]:
    """Let the policy see *values* in place of what the sensors read."""
    world.sensors.given = values
    try:
        yield
    finally:
        world.sensors.given = {}


def answered(
    world: World, reply: Generation, before: int, backend: str, *more: Check, by: str = "", kept: bool = False
) -> Outcome:
    """An answer that *backend* was to give, or had given; *before* is how many bytes had gone to the cloud."""
    sent = world.bytes_to_cloud - before
    leaves = backend == "cloud" and not kept
    checks = (
        Check(f"{backend} {'had answered' if kept else 'answers'}", (reply.backend, reply.cached) == (backend, kept)),
        Check("there is an answer", bool(reply.text.strip())),
        Check("bytes go to the cloud" if leaves else "0 bytes go to the cloud", (sent > 0) == leaves),
    )
    return Outcome(checks=checks + more, decision=reply.decision, reply=reply, by=by, bytes_to_cloud=sent)


def by_rule(reply: Generation, because: str) -> Check:
    """The rule that ordered gives this reason."""
    return Check(f"because {because}", because in reply.decision.because)


def left_out(decision: Decision, backend: str, why: str) -> Check:
    """*backend* may not be asked, for this reason."""
    return Check(f"{backend} is out: {why}", why in decision.excluded.get(backend, ""))


def wait_until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until *true* says so, for *seconds* at most."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)


def failed(error: HybridLLMError) -> Outcome:
    """What a scene shows that ended in an error nobody expected."""
    name = type(error).__name__
    return Outcome(checks=(Check(f"no {name}: {error}", False),), by=name)
