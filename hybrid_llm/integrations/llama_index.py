"""LlamaIndex: an LLM for its query engines, programs and agents, over a client of this library.

from hybrid_llm.integrations.llama_index import HybridLLM
from llama_index.core import Settings

Settings.llm = HybridLLM(config="hybrid.yaml", privacy={"phi"})
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hybrid_llm.core.errors import InvalidRequest, OutputInvalid
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.generation import AnswerParts, Chunk, FinishReason, Generation
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.limits import DEFAULT_MAX_TOKENS
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.core.tools import ToolCall
from hybrid_llm.integrations.common import AUTO, aclient_for, client_for, details, options_of
from hybrid_llm.integrations.openai_form import as_options
from hybrid_llm.router.client import HybridLLM as Client
from hybrid_llm.router.names import backends_of

try:
    from llama_index.core.base.llms.generic_utils import (
        achat_to_completion_decorator,
        astream_chat_to_completion_decorator,
        chat_to_completion_decorator,
        stream_chat_to_completion_decorator,
    )
    from llama_index.core.base.llms.types import (
        CachePoint,
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        LLMMetadata,
        MessageRole,
        TextBlock,
        ThinkingBlock,
        ToolCallBlock,
    )
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.function_calling import FunctionCallingLLM
    from llama_index.core.llms.llm import ToolSelection
    from llama_index.core.llms.utils import parse_partial_json

    from hybrid_llm.integrations.fields import ListedOptionFields
except ImportError as error:
    raise ImportError(f"this needs llama-index-core: {install_hint('llama-index')}") from error

if TYPE_CHECKING:
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools.types import BaseTool
    from pydantic import BaseModel

Block: TypeAlias = "ThinkingBlock | TextBlock | ToolCallBlock"
_ROLES = {
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}
"""LlamaIndex's roles that have another name here."""


class HybridLLM(ListedOptionFields, FunctionCallingLLM):
    """An LLM that answers on the device or in the cloud, as a policy decides.

    The options of `generate` are fields, and arguments of each call; privacy tags of both count. *client* answers, else
    the file *config*, else what `HYBRID_LLM_CONFIG` names. Errors are those of this library.
    """

    client: Client | None = Field(default=None, exclude=True, repr=False)
    """What answers; it is not closed."""
    config: Path | str | None = Field(default=None, description="A hybrid.yaml.")
    model: str = Field(default=AUTO, description="auto: the policy decides; else a backend, or its model.")
    stop: list[str] | None = Field(default=None, description="Texts that end the answer.")
    context_window: int | None = Field(default=None, description="Tokens of prompt and answer; by default the least.")

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "HybridLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What every backend that *model* names can do: the smallest context window, and tools if all have them."""
        backends = client_for(self.client, self.config).backends
        wanted = backends_of(backends, self.model) or [each.name for each in backends]
        capabilities = [each.capabilities for each in backends if each.name in wanted]
        windows = [each.context_window for each in capabilities if each.context_window]
        return LLMMetadata(
            context_window=self.context_window or min(windows, default=DEFAULT_CONTEXT_WINDOW),
            num_output=self.max_tokens or DEFAULT_MAX_TOKENS,
            is_chat_model=True,
            is_function_calling_model=any(each.tools for each in capabilities),
            model_name=self.model,
        )

    def to_payload(self) -> Json:
        """What instrumentation is told of this LLM."""
        return {"class_name": self.class_name(), "model_name": self.model, "temperature": self.temperature}

    def _options(self, client: Client, call: Json) -> GenerateOptions:
        call = as_options(call)
        return options_of(client, self.option_values(), call, model=call.pop("model", None) or self.model)

    def _chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        client = client_for(self.client, self.config)
        return _response(client, client.generate(prompt_of(messages), **self._options(client, kwargs)))

    async def _achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        client = await aclient_for(self.client, self.config)
        return _response(client, await client.agenerate(prompt_of(messages), **self._options(client, kwargs)))

    def _stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        client = client_for(self.client, self.config)
        parts = AnswerParts()
        with client.stream(prompt_of(messages), **self._options(client, kwargs)) as stream:
            for chunk in stream:
                if parts.add(chunk):
                    yield _so_far(parts, chunk)
        yield _response(client, stream.generation)

    async def _astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        async def responses() -> ChatResponseAsyncGen:
            client = await aclient_for(self.client, self.config)
            parts = AnswerParts()
            async with client.astream(prompt_of(messages), **self._options(client, kwargs)) as stream:
                async for chunk in stream:
                    if parts.add(chunk):
                        yield _so_far(parts, chunk)
            yield _response(client, stream.generation)

        return responses()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        return self._chat(messages, **kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Do as `chat` does, without blocking the event loop."""
        return await self._achat(messages, **kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece: each response holds the answer so far, the last all of it."""
        return self._stream_chat(messages, **kwargs)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Do as `stream_chat` does, without blocking the event loop."""
        return await self._astream_chat(messages, **kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer *prompt*, as the one message of a conversation."""
        return chat_to_completion_decorator(self._chat)(prompt, **kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Do as `complete` does, without blocking the event loop."""
        return await achat_to_completion_decorator(self._achat)(prompt, **kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Do as `complete` does, piece by piece."""
        return stream_chat_to_completion_decorator(self._stream_chat)(prompt, **kwargs)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Do as `stream_complete` does, without blocking the event loop."""
        return await astream_chat_to_completion_decorator(self._astream_chat)(prompt, **kwargs)

    def structured_predict(
        self, output_cls: type[BaseModel], prompt: PromptTemplate, llm_kwargs: Json | None = None, **prompt_args: Any
    ) -> Any:
        """An *output_cls* that the answer to *prompt* is held to; raises OutputInvalid if a limit cut it off."""
        messages = self._get_messages(prompt, **prompt_args)
        return _object(self.chat(messages, output_schema=output_cls, **(llm_kwargs or {})), output_cls)

    async def astructured_predict(
        self, output_cls: type[BaseModel], prompt: PromptTemplate, llm_kwargs: Json | None = None, **prompt_args: Any
    ) -> Any:
        """Do as `structured_predict` does, without blocking the event loop."""
        messages = self._get_messages(prompt, **prompt_args)
        return _object(await self.achat(messages, output_schema=output_cls, **(llm_kwargs or {})), output_cls)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | Json | None = None,
        **kwargs: Any,
    ) -> Json:
        """The arguments of `chat` for a conversation in which *tools* may be called."""
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg)
        offered = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        if offered:
            kwargs |= {"tools": offered, "parallel_tool_calls": allow_parallel_tool_calls}
            kwargs["tool_choice"] = tool_choice or ("required" if tool_required else "auto")
        return {"messages": messages, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of *response*; in a stream the last one may be cut.

        Raises:
            ValueError: there is none, and *error_on_no_tool_call*.
        """
        blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not blocks and error_on_no_tool_call:
            raise ValueError("Expected at least one tool call, but got 0 tool calls.")
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=_arguments(block.tool_kwargs)
            )
            for block in blocks
        ]


def _object(reply: ChatResponse, output_cls: type[BaseModel]) -> BaseModel:
    made = reply.raw or {}
    if made["finish_reason"] != FinishReason.STOP:
        raise OutputInvalid("the answer is not an object: a limit cut it off", backend=made["backend"], reason="cut")
    return output_cls.model_validate_json(reply.message.content or "")


def _arguments(given: Json | str) -> Json:
    if isinstance(given, dict):
        return given
    try:
        return dict(parse_partial_json(given))
    except ValueError:
        return {}


def prompt_of(messages: Sequence[ChatMessage]) -> list[Json]:
    """The conversation as `generate` takes it: texts, tool calls and their results, reasoning.

    Raises:
        InvalidRequest: a block is no text, such as an image.
    """
    return [_turn(message, at) for at, message in enumerate(messages)]


def _turn(message: ChatMessage, at: int) -> Json:
    turn: Json = {"role": _ROLES.get(message.role, message.role.value), "content": message.content or ""}
    if turn["role"] == "tool":
        turn["tool_call_id"] = message.additional_kwargs.get("tool_call_id") or ""
    calls = [_call(block) for block in message.blocks if isinstance(block, ToolCallBlock)]
    turn["tool_calls"] = calls or message.additional_kwargs.get("tool_calls")
    for block in message.blocks:
        if isinstance(block, ThinkingBlock):
            turn["reasoning_content"] = turn.get("reasoning_content", "") + (block.content or "")
        elif not isinstance(block, TextBlock | CachePoint | ToolCallBlock):
            kind = type(block).__name__
            raise InvalidRequest(f"prompt: messages[{at}]: a {kind} is no text; only texts are taken", field="prompt")
    return turn


def _call(block: ToolCallBlock) -> ToolCall:
    arguments = block.tool_kwargs if isinstance(block.tool_kwargs, str) else json.dumps(block.tool_kwargs)
    return ToolCall(id=block.tool_call_id or "", name=block.tool_name, arguments=arguments)


def _response(client: Client, generation: Generation) -> ChatResponse:
    """The whole answer; in a stream it has no delta, since all of them were given."""
    usage = generation.usage
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    message = _message(generation.text, generation.reasoning, generation.tool_calls)
    raw = details(client, generation) | {"usage": counts}
    return ChatResponse(message=message, delta="", raw=raw, additional_kwargs=counts)


def _so_far(parts: AnswerParts, chunk: Chunk) -> ChatResponse:
    thinking = {"thinking_delta": chunk.reasoning} if chunk.reasoning else {}
    message = _message(parts.text, parts.reasoning, parts.tool_calls)
    return ChatResponse(message=message, delta=chunk.text, additional_kwargs=thinking)


def _message(text: str, reasoning: str, calls: Sequence[ToolCall]) -> ChatMessage:
    """A turn; its calls are blocks, and stand where parts of LlamaIndex that are older look for them."""
    older = {"tool_calls": [call.as_openai() for call in calls]} if calls else {}
    return ChatMessage(
        role=MessageRole.ASSISTANT, blocks=list(_blocks(text, reasoning, calls)), additional_kwargs=older
    )


def _blocks(text: str, reasoning: str, calls: Sequence[ToolCall]) -> Iterator[Block]:
    if reasoning:
        yield ThinkingBlock(content=reasoning)
    yield TextBlock(text=text)
    for call in calls:
        kwargs = call.values if call.is_whole else call.arguments
        yield ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=kwargs)
