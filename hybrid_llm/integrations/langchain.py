"""LangChain: a chat model, `ChatHybridLLM`, over a client of this library.

from hybrid_llm.integrations.langchain import ChatHybridLLM

model = ChatHybridLLM(config="hybrid.yaml", privacy={"phi"})
print(model.invoke("Summarise this visit.").content)
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hybrid_llm.core.errors import HybridLLMError, InvalidRequest
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.generation import Chunk, Generation, Usage
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.request import GenerateOptions, Message
from hybrid_llm.core.tools import ToolCall
from hybrid_llm.integrations.common import AUTO, aclient_for, both, client_for, details, mapped, options_of
from hybrid_llm.integrations.openai_form import as_options, tools_of
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.failures import Failure, failure_of

try:
    from langchain_core import exceptions as lc
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import LangSmithParams, LanguageModelInput
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
    from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
    from langchain_core.messages.tool import tool_call, tool_call_chunk
    from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
    from langchain_core.tools import BaseTool
    from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
    from langchain_core.utils.pydantic import is_basemodel_subclass
    from pydantic import ConfigDict, Field

    from hybrid_llm.integrations.fields import ListedOptionFields
except ImportError as error:
    raise ImportError(f"ChatHybridLLM needs langchain-core: {install_hint('langchain')}") from error

if TYPE_CHECKING:
    from langchain_core.output_parsers.base import BaseOutputParser

_BY_CODE: Final[Mapping[str, type[Exception]]] = {
    "context_length_exceeded": lc.ContextOverflowError,
    "overloaded": lc.ModelRateLimitError,
    "backend_unavailable": lc.ModelConnectionError,
    "content_filter": lc.ModelRefusalError,
}
_BY_STATUS: Final[Mapping[int, type[Exception]]] = {
    400: lc.ModelInvalidRequestError,
    403: lc.ModelPermissionDeniedError,
    413: lc.ModelInvalidRequestError,
    504: lc.ModelTimeoutError,
}
"""What LangChain's retries and fallbacks know, for the words of HTTP."""


class ChatHybridLLM(ListedOptionFields, BaseChatModel):
    """A chat model that answers on the device or in the cloud, as a policy decides.

    The options of `generate` are fields, and arguments of `invoke`, `bind` and the like; privacy tags of both count.
    *client* answers, else the file *config*, else what `HYBRID_LLM_CONFIG` names. Errors are of our classes, and of
    LangChain's, such as `ModelTimeoutError`, at once.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)

    client: HybridLLM | None = Field(default=None, exclude=True, repr=False)
    """What answers; it is not closed."""
    config: Path | str | None = None
    """A `hybrid.yaml`."""
    model: str = Field(default=AUTO, alias="model_name")
    """`auto`: the policy decides; else the name of a backend or of its model."""
    deadline: float | None = Field(default=None, alias="timeout")
    """Seconds until the whole answer must be there."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    streaming: bool = False
    max_retries: int | None = Field(default=None, exclude=True)
    """Taken since other chat models have it; the policy says how often to try again."""
    api_key: Any = Field(default=None, exclude=True, repr=False)
    """Taken since other chat models have it; keys belong to the backends of `hybrid.yaml`."""

    @property
    def _llm_type(self) -> str:
        return "hybrid-llm"

    @property
    def _identifying_params(self) -> Json:
        return {"model": self.model, "config": str(self.config) if self.config else None, **self.option_values()}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        return LangSmithParams(**{**params, "ls_provider": "hybrid-llm"})

    def _options(self, client: HybridLLM, stop: list[str] | None, call: Json) -> GenerateOptions:
        """The options of one call; what LangChain adds of its own is left out."""
        call = as_options({name: value for name, value in call.items() if name not in ("stream", "strict")})
        call |= {"stop": stop or None, "deadline": call.pop("timeout", call.get("deadline"))}
        return options_of(client, self.option_values(), call, model=call.pop("model", None) or self.model)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with mapped(_as_theirs):
            client = client_for(self.client, self.config)
            generation = client.generate(prompt_of(messages), **self._options(client, stop, kwargs))
            return _result(client, generation)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with mapped(_as_theirs):
            client = await aclient_for(self.client, self.config)
            generation = await client.agenerate(prompt_of(messages), **self._options(client, stop, kwargs))
            return _result(client, generation)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with mapped(_as_theirs):
            client = client_for(self.client, self.config)
            with client.stream(prompt_of(messages), **self._options(client, stop, kwargs)) as stream:
                for chunk in stream:
                    made = ChatGenerationChunk(message=_message_chunk(chunk))
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=made)
                    yield made
            yield ChatGenerationChunk(message=_last(client, stream.generation))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with mapped(_as_theirs):
            client = await aclient_for(self.client, self.config)
            async with client.astream(prompt_of(messages), **self._options(client, stop, kwargs)) as stream:
                async for chunk in stream:
                    made = ChatGenerationChunk(message=_message_chunk(chunk))
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=made)
                    yield made
            yield ChatGenerationChunk(message=_last(client, stream.generation))

    def bind_tools(
        self,
        tools: Sequence[Json | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Json | str | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """A model that may call *tools*.

        Args:
            tools: Functions, pydantic models, LangChain's tools, or dicts in OpenAI's form.
            tool_choice: `auto`, `none`, `any` (one must be called), or the name of the tool that must be called.
            kwargs: More arguments of `bind`. `strict` is not needed: arguments always follow their schema.
        """
        choice = {True: "any", False: None}.get(tool_choice) if isinstance(tool_choice, bool) else tool_choice
        if choice is not None:
            kwargs["tool_choice"] = choice
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def with_structured_output(
        self,
        schema: Json | type,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A model whose answers follow *schema*.

        Args:
            schema: A pydantic model, a typed dict, or a JSON Schema.
            method: `json_schema`: the answer is held to the schema; `function_calling`: it is the call of one tool;
                `json_mode`: it is any JSON object, and the prompt has to say which.
            include_raw: Whether to return a dict of `raw`, `parsed` and `parsing_error`, and raise nothing.
            strict: Not needed: a schema is always followed exactly.
            kwargs: More arguments of `bind`.
        """
        if method not in ("json_schema", "function_calling", "json_mode"):
            raise ValueError("method: there are json_schema, function_calling and json_mode")
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        wanted = _json_schema(schema) if method == "json_schema" else {"type": "object"}
        note = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        model = self.bind(output_schema=wanted, ls_structured_output_format=note, **kwargs)
        parser = _parser(schema)
        return _with_raw(model, parser) if include_raw else model | parser

    def get_num_tokens(self, text: str) -> int:
        """Tokens of *text*, counted by the model on this device where there is one, else estimated."""
        return client_for(self.client, self.config).count_tokens(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Json | type | Callable[..., Any] | BaseTool] | None = None
    ) -> int:
        """Tokens of *messages* and *tools*, counted by the model on this device where there is one, else estimated."""
        offered = tools_of([convert_to_openai_tool(tool) for tool in tools or ()])
        return client_for(self.client, self.config).count_tokens(prompt_of(messages), tools=offered or None)


def prompt_of(messages: Sequence[BaseMessage]) -> list[Message | Json]:
    """The conversation as `generate` takes it: texts, tool calls and their results, reasoning.

    Raises:
        InvalidRequest: a message has parts that LangChain does not know.
    """
    prompt: list[Message | Json] = []
    for message in messages:
        prompt += [_of_assistant(message)] if isinstance(message, AIMessage) else _of_other(message)
    return prompt


def _of_assistant(message: AIMessage) -> Message:
    reasoning = [str(block.get("reasoning", "")) for block in message.content_blocks if block["type"] == "reasoning"]
    calls = [
        ToolCall(id=call["id"] or "", name=call["name"], arguments=json.dumps(call["args"]))
        for call in message.tool_calls
    ]
    return Message(role="assistant", content=str(message.text), reasoning="\n".join(reasoning), tool_calls=tuple(calls))


def _of_other(message: BaseMessage) -> list[Json]:
    """Several turns where a message holds the results of several calls."""
    try:
        turns = convert_to_openai_messages([message])
    except ValueError:  # its text may quote the message
        pass
    else:
        return [{name: value for name, value in turn.items() if name != "name"} for turn in turns]
    raise InvalidRequest("prompt: a message has a content block of an unknown form", field="prompt")


def _json_schema(schema: Json | type) -> Json:
    if isinstance(schema, dict) and "title" not in schema and not schema.keys() & {"function", "parameters", "name"}:
        return schema
    return convert_to_json_schema(schema)


def _parser(schema: Json | type) -> BaseOutputParser[Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticOutputParser(pydantic_object=schema)
    return JsonOutputParser()


def _with_raw(model: Runnable[Any, Any], parser: BaseOutputParser[Any]) -> Runnable[Any, Any]:
    parsed = RunnablePassthrough.assign(parsed=(lambda both: both["raw"]) | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _result(client: HybridLLM, generation: Generation) -> ChatResult:
    calls = [tool_call(name=call.name, args=call.values, id=call.id) for call in generation.tool_calls]
    message = AIMessage(
        content=generation.text,
        tool_calls=calls,
        additional_kwargs=_reasoning(generation.reasoning),
        usage_metadata=_usage(generation.usage),
        response_metadata=details(client, generation),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _message_chunk(chunk: Chunk) -> AIMessageChunk:
    calls = [
        tool_call_chunk(name=each.name or None, args=each.arguments, id=each.id or None, index=each.index)
        for each in chunk.tool_calls
    ]
    return AIMessageChunk(content=chunk.text, tool_call_chunks=calls, additional_kwargs=_reasoning(chunk.reasoning))


def _last(client: HybridLLM, generation: Generation) -> AIMessageChunk:
    """What is known at the end of a stream alone."""
    return AIMessageChunk(
        content="",
        usage_metadata=_usage(generation.usage),
        response_metadata=details(client, generation),
        chunk_position="last",
    )


def _reasoning(text: str) -> Json:
    return {"reasoning_content": text} if text else {}


def _usage(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_prompt_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )


def _as_theirs(error: HybridLLMError) -> HybridLLMError:
    return both(error, _kind_of(failure_of(error)))


def _kind_of(failure: Failure) -> type[Exception]:
    if failure.code in _BY_CODE:
        return _BY_CODE[failure.code]
    return lc.ModelAPIError if failure.retry else _BY_STATUS.get(failure.status, lc.ModelError)
