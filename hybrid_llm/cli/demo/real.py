"""The scene with a real model: SmolLM2-135M, added as a user adds it, holds a conversation on the device."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from hybrid_llm import __version__
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, ModelStore
from hybrid_llm.backends.models.sources.source import FetchFailed
from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.backends.models.store import add
from hybrid_llm.cli.demo.world import Check, Outcome, World
from hybrid_llm.cli.models_add import catalogue_addition
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import Message
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.client import HybridLLM

_MODEL: Final = "smollm2-135m"
_QUESTIONS: Final = ("What is gravity?", "Say it in one short sentence.", "Correct the spelling: I hav a dreem.")


def converse(_: World) -> Outcome:
    """Add the model to a store of the demonstration, once for each version, and ask three questions in a row."""
    from platformdirs import user_cache_path

    store = ModelStore(user_cache_path("hybrid-llm", appauthor=False) / "demo-models" / __version__)
    try:
        added = add(store, catalogue_addition(_MODEL), report=lambda _, __: None)
    except (FetchFailed, NoSpace) as error:
        return Outcome(checks=(Check(f"skipped, the model cannot be had: {str(error).splitlines()[0]}", True),), by="-")
    backend = EdgeBackend(EdgeConfig(model=added.folder))
    policy = builtin_policy("balanced", backends={backend.name: backend.location})
    with closing(backend), HybridLLM([backend], policy) as llm:
        replies = _conversation(llm)
    first = replies[0]
    checks = (
        Check("every answer is from the device", all(reply.backend == "edge" for reply in replies)),
        Check("every answer says something", all(len(reply.text.split()) > 1 for reply in replies)),
        Check("none is a demonstration's", not any(reply.notice for reply in replies)),
        Check("the later questions were read with the earlier ones", _grows(replies)),
    )
    return Outcome(checks=checks, decision=first.decision, reply=first, by=f"edge, {_MODEL}")


def _conversation(llm: HybridLLM) -> list[Generation]:
    turns: list[Message] = []
    replies = []
    for question in _QUESTIONS:
        turns.append(Message(role="user", content=question))
        reply = llm.generate(turns, max_tokens=48, seed=1)
        turns.append(Message(role="assistant", content=reply.text))
        speed = 1000 / reply.timings.tpot_ms if reply.timings.tpot_ms else 0.0
        print(f"    > {question}\n      {' '.join(reply.text.split())}")
        print(f"      first token after {reply.timings.ttft_ms:.0f} ms, {speed:.0f} tokens/s", flush=True)
        replies.append(reply)
    return replies


def _grows(replies: list[Generation]) -> bool:
    read = [reply.usage.prompt_tokens for reply in replies]
    return read == sorted(set(read))
