"""Drives a conversation with tools: answers, calls the tools that the model asks for, and answers with their results.

The core is async and awaits only what is injected, as that of an answer does: a synchronous caller steps it. Every
result is a message of the conversation, so that the privacy guard reads it before any backend does.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, Unpack, cast

from hybrid_llm.core.errors import DeadlineExceeded, InvalidRequest, ToolFailed
from hybrid_llm.core.generation import FinishReason, Generation
from hybrid_llm.core.request import GenerateOptions, Message, Prompt, ToolSource
from hybrid_llm.core.threads import awaited, in_thread
from hybrid_llm.core.tools import Tool, ToolCall
from hybrid_llm.core.tracebacks import scrubbed
from hybrid_llm.router.conversation import conversation_of, tool_sources
from hybrid_llm.router.execution.answer import finish
from hybrid_llm.router.execution.stream import AsyncStream, Stream
from hybrid_llm.router.request import Incoming
from hybrid_llm.router.tool_steps import AnswerCalls, Caller, HereCaller, LoopCaller, ToolStep

OnError = Literal["tell", "raise"]
"""What the failure of a tool does: the model is told its error, or `ToolFailed` ends the loop."""
Generate = Callable[[Incoming], Awaitable[Generation]]
_MOST_STEPS: Final = 1000
_TOOL_TIMEOUT_S: Final = 30.0
_MOST_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """A conversation with tools that is over."""

    reply: Generation
    """The last answer."""
    steps: tuple[ToolStep, ...] = ()
    """The tools that were called, in order."""
    replies: tuple[Generation, ...] = ()
    """Every answer, *reply* last."""
    messages: tuple[Message | Mapping[str, Any], ...] = field(default=(), repr=False)
    """The whole conversation, for the next prompt: the app's messages, the answers, and the results."""

    @property
    def text(self) -> str:
        """The text of the last answer."""
        return self.reply.text

    @property
    def pending(self) -> tuple[ToolCall, ...]:
        """Calls of the last answer that were not made: `max_steps` was reached, or a tool has no function here."""
        return self.reply.tool_calls

    @property
    def is_complete(self) -> bool:
        """Whether the model has answered, and no limit cut it off."""
        return self.reply.finish_reason is FinishReason.STOP


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLoop:
    """What one run does; *created* is read from the clock before anything else.

    Raises:
        InvalidRequest: a setting is out of range.
    """

    prompt: Prompt = field(repr=False)
    tools: Sequence[ToolSource] = field(repr=False)
    max_steps: int = 8
    """Answers of the model at most."""
    on_error: OnError = "tell"
    tool_timeout: float = _TOOL_TIMEOUT_S
    """Seconds that one call may take; within the deadline, which holds for the whole run."""
    max_concurrency: int = _MOST_AT_ONCE
    """Calls of one answer that run at a time."""
    options: GenerateOptions = field(repr=False)
    created: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not isinstance(self.max_steps, int) or not 1 <= self.max_steps <= _MOST_STEPS:
            raise InvalidRequest(f"max_steps: a whole number from 1 to {_MOST_STEPS}", field="max_steps")
        if self.on_error not in ("tell", "raise"):
            raise InvalidRequest("on_error: it must be 'tell' or 'raise'", field="on_error")
        if not isinstance(self.tool_timeout, int | float) or not self.tool_timeout > 0:
            raise InvalidRequest("tool_timeout: a number of seconds above 0", field="tool_timeout")
        if not isinstance(self.max_concurrency, int) or self.max_concurrency < 1:
            raise InvalidRequest("max_concurrency: a whole number of 1 or more", field="max_concurrency")

    async def run(self, deadline: float, generate: Generate, caller: Caller) -> ToolRun:
        """Answer until the model calls no tool; all within *deadline* seconds.

        Raises:
            ToolFailed: a tool failed, and the app wants to be told.
            DeadlineExceeded: the deadline passed, in a tool too. Else the errors of `generate`.
        """
        tools = tuple([Tool.of(source) for source in self.tools])
        turns: list[Message | Mapping[str, Any]] = list(conversation_of(self.prompt))
        replies: list[Generation] = []
        steps: list[ToolStep] = []
        expires = self.created + deadline
        while True:
            incoming = self._incoming(turns, tools, replies, expires)
            reply = await generate(incoming)
            replies.append(reply)
            turns.append(reply.as_message(reasoning=True))
            functions = _functions(reply, tools)
            if len(replies) == self.max_steps or functions is None:
                break
            steps += (made := await self._call(reply, functions, caller, expires))
            turns += [Message(role="tool", content=step.result, tool_call_id=step.call.id) for step in made]
            if time.monotonic() >= expires:
                message = f"the deadline of {deadline:g} s passed while tools ran"
                raise DeadlineExceeded(message, backend=reply.backend, elapsed=deadline, phase="tools")
        return ToolRun(reply=reply, steps=tuple(steps), replies=tuple(replies), messages=tuple(turns))

    def _incoming(
        self,
        turns: Sequence[Message | Mapping[str, Any]],
        tools: tuple[Tool, ...],
        replies: Sequence[Generation],
        expires: float,
    ) -> Incoming:
        """The next request: where the last one ran, if the policy allows it; after a first call, no tool is forced."""
        options = cast(GenerateOptions, {**self.options, "tools": tools})
        options["deadline"] = max(0.001, expires - time.monotonic())
        if replies and options.get("tool_choice") != "none":
            options["tool_choice"] = "auto"
        return Incoming(prompt=list(turns), options=options, pin=replies[-1].backend if replies else "")

    async def _call(
        self, reply: Generation, functions: Sequence[Callable[..., Any]], caller: Caller, expires: float
    ) -> list[ToolStep]:
        calls = AnswerCalls(
            backend=reply.backend,
            caller=caller,
            timeout=self.tool_timeout,
            expires=expires,
            all_or_none=self.on_error == "raise",
        )
        steps = await calls.steps(reply.tool_calls, functions, self.max_concurrency)
        failed = next((step for step in steps if step.error and self.on_error == "raise"), None)
        if failed is not None:  # raised here, where the tool's error, whose text may be private, is no cause
            name, reason = failed.call.name, failed.error
            raise ToolFailed(f"the tool {name} failed: {reason}", tool=name, reason=reason)
        return steps


def _functions(reply: Generation, tools: Sequence[Tool]) -> list[Callable[..., Any]] | None:
    """The functions that *reply* calls; None if it calls none, or one that is not here."""
    by_name = {tool.name: tool.call for tool in tools}
    found = [by_name.get(call.name) for call in reply.tool_calls]
    known = [function for function in found if function is not None]
    ended = reply.finish_reason is not FinishReason.TOOL_CALLS
    return None if ended or not found or len(known) < len(found) else known


class ToolRunner(ABC):
    """What runs tools over calls that are made one by one: the part of a client that `run_tools` is."""

    __slots__ = ()

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _stream(self, incoming: Incoming) -> Stream: ...

    @abstractmethod
    def _astream(self, incoming: Incoming) -> AsyncStream: ...

    @abstractmethod
    def _deadline(self, incoming: Incoming) -> float:
        """The seconds that *incoming* may take."""

    @scrubbed
    def run_tools(
        self,
        prompt: Prompt,
        *,
        max_steps: int = 8,
        on_error: OnError = "tell",
        tool_timeout: float = _TOOL_TIMEOUT_S,
        max_concurrency: int = _MOST_AT_ONCE,
        **options: Unpack[GenerateOptions],
    ) -> ToolRun:
        """Answer *prompt*, calling the functions among `tools` that the model asks for, until it asks for none.

        The steps go on with the backend of the first, unless it fails or the policy no longer allows it: a result may
        hold private text. The functions are called in this process, each in a thread; those that one answer calls run
        side by side, and their results stand in the order of the calls.

        Args:
            prompt: As for `generate`.
            max_steps: Answers of the model at most; the last one may still ask for calls, which are then *pending*.
            on_error: `tell` gives the model the error of a tool that fails; `raise` ends the run with `ToolFailed`,
                once the calls that run beside it have ended; no further one begins.
            tool_timeout: Seconds that one call may take. A thread that does not return by then is left behind.
            max_concurrency: Calls of one answer that run at a time; 1 for tools that must not run side by side.
            options: As for `generate`, with `tools`. The deadline holds for the whole run.

        Raises:
            ToolFailed: a tool failed, and *on_error* is `raise`.
            InvalidRequest: a setting is out of range, or there are no tools. Else the errors of `generate`.
        """
        self._check_open()
        loop = _loop(prompt, max_steps, on_error, tool_timeout, max_concurrency, options)

        async def generate(incoming: Incoming) -> Generation:
            return self._stream(incoming).collect()

        return finish(loop.run(self._deadline(_incoming(loop)), generate, HereCaller()))

    @scrubbed
    async def arun_tools(
        self,
        prompt: Prompt,
        *,
        max_steps: int = 8,
        on_error: OnError = "tell",
        tool_timeout: float = _TOOL_TIMEOUT_S,
        max_concurrency: int = _MOST_AT_ONCE,
        **options: Unpack[GenerateOptions],
    ) -> ToolRun:
        """Do as `run_tools` does, without blocking the event loop; functions that are async run in it."""
        self._check_open()
        loop = _loop(prompt, max_steps, on_error, tool_timeout, max_concurrency, options)

        async def generate(incoming: Incoming) -> Generation:
            return await self._astream(incoming).collect()

        deadline = await awaited(in_thread("hybrid-llm-tools", partial(self._deadline, _incoming(loop))))
        return await loop.run(deadline, generate, LoopCaller())


def _loop(
    prompt: Prompt,
    max_steps: int,
    on_error: OnError,
    tool_timeout: float,
    max_concurrency: int,
    options: GenerateOptions,
) -> ToolLoop:
    tools = tool_sources(options.get("tools") or ())
    if not tools:
        raise InvalidRequest("tools: pass the functions that the model may call", field="tools")
    return ToolLoop(
        prompt=prompt,
        tools=tools,
        max_steps=max_steps,
        on_error=on_error,
        tool_timeout=tool_timeout,
        max_concurrency=max_concurrency,
        options=options,
    )


def _incoming(loop: ToolLoop) -> Incoming:
    return Incoming(prompt=loop.prompt, options=loop.options, created=loop.created)
