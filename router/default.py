"""The module-level functions, such as `hybrid_llm.generate` and `run_tools`, and their client.

The client is made on first use and closed when Python exits. The environment may name its file (`HYBRID_LLM_CONFIG`)
and its policy (`HYBRID_LLM_POLICY`); else it runs the default model on this device (see `hybrid-llm models use`) under
the built-in policy `balanced`, without a cloud.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Unpack

from hybrid_llm.core.threads import awaited, in_thread, require_asyncio
from hybrid_llm.core.tracebacks import scrubbed
from hybrid_llm.router.execution.stream import AsyncStream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hybrid_llm.core.decision import Decision
    from hybrid_llm.core.generation import Generation
    from hybrid_llm.core.request import GenerateOptions, Prompt
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.execution.answer import Answer
    from hybrid_llm.router.execution.stream import Stream
    from hybrid_llm.router.observability.hooks import Hook
    from hybrid_llm.router.tool_loop import OnError, ToolRun


class _Default:
    """The client of this process, once it is made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: list[HybridLLM] = []


_defaults: list[_Default] = [_Default()]
"""The last is that of this process; the others belong to those from which it was forked."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _defaults.append(_Default()))


def default_client() -> HybridLLM:
    """The client of this process; ConfigError if the environment names an invalid one."""
    default = _defaults[-1]
    with default.lock:
        if not default.made:
            default.made.append(open_default())
        return default.made[0]


async def adefault_client() -> HybridLLM:
    """The client of this process, imported and made in a thread: an event loop must not wait for that."""
    require_asyncio()
    made = _defaults[-1].made
    return made[0] if made else await awaited(in_thread("hybrid-llm-default", default_client))


def open_default(hooks: Sequence[Hook] = (), *, serve_metrics: bool = True) -> HybridLLM:
    """A client of its own, as that of this process; ConfigError if the environment names an invalid file or policy."""
    from hybrid_llm.core.environment import log_unknown_variables
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.config import environment_config

    named = environment_config()
    log_unknown_variables(() if named is None else named.variables)
    if named is not None:
        return HybridLLM._of(named, hooks=tuple(hooks), serve_metrics=serve_metrics)
    from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
    from hybrid_llm.policies import builtin_policy
    from hybrid_llm.router.config import identities
    from hybrid_llm.router.signals.store import PredictionStore, state_folder

    config = EdgeConfig()
    edge = EdgeBackend(config)
    predictions = PredictionStore(state_folder(), identities([config]))
    policy = builtin_policy("balanced", backends={edge.name: edge.location})
    return HybridLLM([edge], policy, predictions=predictions, hooks=hooks)


def open_client(config: Path | None, hooks: Sequence[Hook] = (), *, serve_metrics: bool = True) -> HybridLLM:
    """The client of the file *config*, else of `open_default`; ConfigError if what it names is invalid."""
    if config is None:
        return open_default(hooks, serve_metrics=serve_metrics)
    from hybrid_llm.router.client import HybridLLM

    return HybridLLM.from_config(config, hooks=hooks, serve_metrics=serve_metrics)


@scrubbed
def generate(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
    """Answer *prompt*, on the device or in the cloud as the policy decides; block until the answer is complete.

        reply = hybrid_llm.generate("Is this review positive? 'Dull.'", privacy={"phi"}, deadline=2.0)
        print(reply.text, reply.backend, reply.decision.explain())

    Args:
        prompt: A text, a `Message`, or a conversation as a list of `{"role": ..., "content": ...}`.
        options: See `GenerateOptions`; *deadline* is in seconds.

    Returns:
        The text with finish reason, usage, timings, backend and decision.

    Raises:
        ConfigError: the environment names an invalid file or policy, or the default model is gone.
        InvalidRequest: an option is out of range, or a privacy tag is unknown.
        TypeError: an option does not exist.
        NoEligibleBackend: every backend is excluded.
        AllBackendsFailed: every eligible backend was tried.
        DeadlineExceeded: the deadline passed.
        StreamInterrupted: the answer broke off and was not continued.
        SecurityError: trust is broken; nothing else was tried.
    """
    return default_client().generate(prompt, **options)


@scrubbed
def stream(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
    """Answer *prompt* chunk by chunk.

        with hybrid_llm.stream("Count from 3 to 20.") as stream:
            for chunk in stream:
                print(chunk.text, end="")

    Args and errors are those of `generate`. Routing errors are raised here, the others by the iteration.

    Returns:
        An iterator of `Chunk` with the decision; after the last chunk `stream.generation` is the whole answer. Leaving
        it early, through `close` or `with`, stops the backend's work.
    """
    return default_client().stream(prompt, **options)


@scrubbed
async def agenerate(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
    """Do as `generate` does, without blocking the event loop; cancelling the task cancels the work."""
    return await astream(prompt, **options).collect()


@scrubbed
def astream(prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncStream:
    """Do as `stream` does, for `async for` and `async with`; cancelling the task cancels the work.

    Entering the stream with `async with`, or else its first chunk, raises the errors of routing.
    """
    created = time.monotonic()

    async def start() -> Answer:
        client = await adefault_client()
        from hybrid_llm.router.request import Incoming  # loaded by now

        return await client._start(Incoming(prompt=prompt, options=options, created=created))

    return AsyncStream(start)


@scrubbed
def decide(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Decision:
    """Return which backends would be tried for *prompt*, and why; nothing is sent, and no model runs.

    Args are those of `generate`.

    Raises:
        ConfigError: the environment names an invalid file or policy.
        InvalidRequest: an option is out of range, or a privacy tag is unknown.
    """
    return default_client().decide(prompt, **options)


@scrubbed
async def adecide(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Decision:
    """Do as `decide` does, without blocking the event loop."""
    return await (await adefault_client()).adecide(prompt, **options)


@scrubbed
def run_tools(
    prompt: Prompt,
    *,
    max_steps: int = 8,
    on_error: OnError = "tell",
    tool_timeout: float = 30.0,
    max_concurrency: int = 8,
    **options: Unpack[GenerateOptions],
) -> ToolRun:
    """Answer *prompt*, calling the functions among `tools` that the model asks for, until it asks for none.

    See `HybridLLM.run_tools`.
    """
    client = default_client()
    return client.run_tools(
        prompt,
        max_steps=max_steps,
        on_error=on_error,
        tool_timeout=tool_timeout,
        max_concurrency=max_concurrency,
        **options,
    )


@scrubbed
async def arun_tools(
    prompt: Prompt,
    *,
    max_steps: int = 8,
    on_error: OnError = "tell",
    tool_timeout: float = 30.0,
    max_concurrency: int = 8,
    **options: Unpack[GenerateOptions],
) -> ToolRun:
    """Do as `run_tools` does, without blocking the event loop."""
    client = await adefault_client()
    return await client.arun_tools(
        prompt,
        max_steps=max_steps,
        on_error=on_error,
        tool_timeout=tool_timeout,
        max_concurrency=max_concurrency,
        **options,
    )
