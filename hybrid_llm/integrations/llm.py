"""A plug-in of `llm`, Simon Willison's command: `llm -m hybrid-llm "Hello"` answers as a policy decides.

It is found by its entry point. Every run of that command imports this file, so that it imports little itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from hybrid_llm.core.errors import HybridLLMError, InvalidRequest
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.request import Message as Turn
from hybrid_llm.core.request import Role
from hybrid_llm.core.tools import ToolCall

try:
    import llm
    from pydantic import Field, field_validator

    from hybrid_llm.integrations.fields import OptionFields
except ImportError as error:
    raise ImportError(f"this plug-in needs llm: {install_hint('llm')}") from error

if TYPE_CHECKING:
    from llm.parts import Message, StreamEvent

    from hybrid_llm.core.generation import Chunk, Generation
    from hybrid_llm.core.request import GenerateOptions
    from hybrid_llm.router.client import HybridLLM

MODEL: Final = "hybrid-llm"


@llm.hookimpl
def register_models(register: Any) -> None:
    """Offer the model of this process."""
    register(HybridModel(), AsyncHybridModel())


class HybridOptions(OptionFields, llm.Options):
    """Options of a prompt: `-o privacy phi`; those that are lists have commas."""

    privacy: str | None = Field(default=None, description="Privacy tags of the policy, with commas.")
    backends: str | None = Field(default=None, description="The only backends that may answer, with commas.")
    stop: str | None = Field(default=None, description="A text that ends the answer.")

    @field_validator("privacy", "backends", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return ",".join(sorted(value)) if isinstance(value, set | frozenset | list | tuple) else value

    def values(self) -> Json:
        """The options by the names of `generate`."""
        lists = {name: _split(getattr(self, name)) for name in ("privacy", "backends")}
        return self.option_values() | lists


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [each.strip() for each in text.split(",") if each.strip()]


class _Shared:
    """What the model is, be it asked by sync or async code."""

    model_id = MODEL
    can_stream = True
    supports_schema = True
    supports_tools = True

    def __init__(self, *, client: HybridLLM | None = None) -> None:
        """*client* answers, else what `HYBRID_LLM_CONFIG` names."""
        self._client = client

    def __str__(self) -> str:
        return f"hybrid-llm: {self.model_id}"


class HybridModel(_Shared, llm.Model):
    """Answers on the device or in the cloud, as a policy decides."""

    Options = HybridOptions

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[StreamEvent]:
        """Answer *prompt*; whoever leaves the answer early stops the work of the backend."""
        from hybrid_llm.integrations.common import client_for, mapped

        with mapped(_as_theirs):
            client = client_for(self._client, None)
            with client.stream(prompt_of(prompt.messages), **_options(client, prompt, conversation)) as answer:
                for chunk in answer:
                    yield from _events(chunk, hide_reasoning=prompt.hide_reasoning)
            _note(client, answer.generation, response)


class AsyncHybridModel(_Shared, llm.AsyncModel):
    """As `HybridModel`, without blocking the event loop."""

    Options = HybridOptions

    async def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.AsyncResponse, conversation: llm.AsyncConversation | None
    ) -> AsyncGenerator[StreamEvent, None]:
        """Answer *prompt*; whoever leaves the answer early stops the work of the backend."""
        from hybrid_llm.integrations.common import aclient_for, mapped

        with mapped(_as_theirs):
            client = await aclient_for(self._client, None)
            async with client.astream(prompt_of(prompt.messages), **_options(client, prompt, conversation)) as answer:
                async for chunk in answer:
                    for event in _events(chunk, hide_reasoning=prompt.hide_reasoning):
                        yield event
            _note(client, answer.generation, response)


def _options(client: HybridLLM, prompt: llm.Prompt, conversation: Any) -> GenerateOptions:
    """The options of one call; a conversation is a session, in which pseudonyms stay the same."""
    from hybrid_llm.integrations.common import options_of
    from hybrid_llm.integrations.openai_form import tool_of

    call = cast(HybridOptions, prompt.options).values()
    if call["session_id"] is None and conversation is not None:
        call["session_id"] = conversation.id
    call["output_schema"] = prompt.schema or None
    call["tools"] = [tool_of(tool.name, tool.description, tool.input_schema) for tool in prompt.tools] or None
    return options_of(client, {}, call)


def prompt_of(messages: list[Message]) -> list[Turn]:
    """The conversation as `generate` takes it; a system prompt that is said again is said once.

    Raises:
        InvalidRequest: a message has an attachment.
    """
    prompt: list[Turn] = []
    system = ""
    for message in messages:
        for turn in _turns(message):
            if turn.role == "system" and turn.content == system:
                continue
            system = turn.content if turn.role == "system" else system
            prompt.append(turn)
    return prompt


def _turns(message: Message) -> Iterator[Turn]:
    from llm.parts import AttachmentPart, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

    for part in message.parts:
        if isinstance(part, AttachmentPart) or (isinstance(part, ToolResultPart) and part.attachments):
            raise InvalidRequest("prompt: attachments are no text; only texts are taken", field="prompt")
        if isinstance(part, ToolResultPart):
            yield Turn(role="tool", tool_call_id=part.tool_call_id or "", content=part.output)
    if message.role != "tool":
        yield Turn(
            role=cast(Role, message.role),
            content="".join(part.text for part in message.parts if isinstance(part, TextPart)),
            reasoning="".join(part.text for part in message.parts if isinstance(part, ReasoningPart)),
            tool_calls=tuple([_call(part) for part in message.parts if isinstance(part, ToolCallPart)]),
        )


def _call(part: Any) -> ToolCall:
    arguments = part.arguments if isinstance(part.arguments, str) else json.dumps(part.arguments)
    return ToolCall(id=part.tool_call_id or "", name=part.name, arguments=arguments)


def _events(chunk: Chunk, *, hide_reasoning: bool) -> Iterator[StreamEvent]:
    from llm.parts import StreamEvent

    if chunk.reasoning and not hide_reasoning:
        yield StreamEvent(type="reasoning", chunk=chunk.reasoning)
    if chunk.text:
        yield StreamEvent(type="text", chunk=chunk.text)
    for each in chunk.tool_calls:
        if each.name:
            yield StreamEvent(type="tool_call_name", chunk=each.name, tool_call_id=each.id)
        if each.arguments:
            yield StreamEvent(type="tool_call_args", chunk=each.arguments, tool_call_id=each.id or None)


def _note(client: HybridLLM, generation: Generation, response: Any) -> None:
    """Tell `llm` what it logs of an answer: how it was made, its tokens, its calls."""
    from hybrid_llm.integrations.common import details

    made = details(client, generation)
    response.response_json = made
    response.set_resolved_model(made["model_name"])
    usage = generation.usage
    counted: Mapping[str, int] = {"cached": usage.cached_prompt_tokens, "reasoning": usage.reasoning_tokens}
    response.set_usage(
        input=usage.prompt_tokens,
        output=usage.completion_tokens,
        details={name: tokens for name, tokens in counted.items() if tokens} or None,
    )
    for call in generation.tool_calls:
        response.add_tool_call(llm.ToolCall(name=call.name, arguments=call.values, tool_call_id=call.id))


def _as_theirs(error: HybridLLMError) -> HybridLLMError:
    from hybrid_llm.integrations.common import both

    return both(error, llm.ModelError)
