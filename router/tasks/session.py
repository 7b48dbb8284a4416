"""Asks a client for the answers of one task, all within one deadline; the same for sync and async callers.

The work of a task is a coroutine that awaits nothing but `ask`: a synchronous caller steps it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.looks import caller_left
from hybrid_llm.core.request import GenerateOptions, Location, Message
from hybrid_llm.core.threads import awaited, in_thread
from hybrid_llm.router.default import adefault_client, default_client
from hybrid_llm.router.execution.answer import finish
from hybrid_llm.router.execution.stream import Stream
from hybrid_llm.router.request import Incoming

if TYPE_CHECKING:
    from hybrid_llm.router.client import HybridLLM

T = TypeVar("T")
_OWN: Final = ("task", "output_schema", "tools", "tool_choice", "parallel_tool_calls", "logprobs")
"""Options that a task sets itself."""


class Session:
    """One task of one client.

    Args:
        client: What answers.
        options: What the app passed.
        generate: Makes one answer.
        deadline: Seconds for all answers together, from now.
    """

    def __init__(
        self,
        client: HybridLLM,
        options: GenerateOptions,
        generate: Callable[[Incoming], Awaitable[Generation]],
        deadline: float,
    ) -> None:
        self._client, self._options, self._generate = client, options, generate
        self._expires = time.monotonic() + deadline
        self._tags: frozenset[str] = frozenset()

    async def ask(
        self,
        messages: Sequence[Message],
        own: GenerateOptions,
        *,
        excluded: Mapping[str, str] | None = None,
        pin: str = "",
    ) -> Generation:
        """Answer *messages*.

        Args:
            messages: The prompt.
            own: Options of the task; what the app passed comes before its `max_tokens` and sampling.
            excluded: Backends that are not to answer, each with the reason.
            pin: The backend to go on with, where the policy allows it.

        Raises as `generate` does.
        """
        options = cast(GenerateOptions, {**own, **self._options})
        if self._tags:
            options["privacy"] = self._tags | frozenset(options.get("privacy") or ())
        options["deadline"] = max(0.001, self._expires - time.monotonic())
        barred = dict(excluded or {})
        return await self._generate(Incoming(prompt=list(messages), options=options, excluded=barred, pin=pin))

    def keep(self, tags: frozenset[str]) -> None:
        """Ask with *tags* from now on: what follows is made of a text that has them, and need not show why."""
        self._tags |= tags

    def window(self, tags: frozenset[str]) -> int:
        """The largest known context window, in tokens, of the backends that may take any text with *tags*; else 0."""
        allowed: frozenset[Location] = self._client.policy.allowed(tags)
        tasks = {backend.name: backend.capabilities.tasks for backend in self._client.backends}
        states = self._client.signals().backends.values()
        fitting = [s.context_window for s in states if s.ready and s.location in allowed and not tasks[s.name]]
        return max(fitting, default=0)

    def answer_tokens(self, own: GenerateOptions) -> int:
        """The most tokens of an answer with the options *own*, unless the app names another number."""
        return self._options.get("max_tokens") or own.get("max_tokens") or 0

    def others(self, excluded: Mapping[str, str]) -> bool:
        """Whether the client has a backend beside *excluded*."""
        return any(backend.name not in excluded for backend in self._client.backends)


Work = Callable[[Session], Coroutine[Any, Any, T]]


def run(work: Work[T], llm: HybridLLM | None, options: GenerateOptions) -> T:
    """Do *work* with *llm*, or with the client of `hybrid_llm.generate`."""
    incoming = _incoming(options)
    client = llm or default_client()

    async def generate(incoming: Incoming) -> Generation:
        return _collected(client._stream(incoming))

    return finish(work(Session(client, options, generate, client._deadline(incoming))))


async def arun(work: Work[T], llm: HybridLLM | None, options: GenerateOptions) -> T:
    """Do as `run` does, without blocking the event loop."""
    incoming = _incoming(options)
    client = llm or await adefault_client()

    async def generate(incoming: Incoming) -> Generation:
        return await client._astream(incoming).collect()

    deadline = await awaited(in_thread("hybrid-llm-task", partial(client._deadline, incoming)))
    return await work(Session(client, options, generate, deadline))


def _incoming(options: GenerateOptions) -> Incoming:
    for name in _OWN:
        if options.get(name) is not None:
            raise InvalidRequest(f"{name}: the task sets it itself; use `generate` to set it", field=name)
    return Incoming(prompt="", options=options)


def _collected(stream: Stream) -> Generation:
    """The whole answer; between two chunks there is a look whether the caller, a batch, has left."""
    left = caller_left.get()
    if left is None:
        return stream.collect()
    with stream:
        for _ in stream:
            if left.is_set():
                raise asyncio.CancelledError
        return stream.generation
