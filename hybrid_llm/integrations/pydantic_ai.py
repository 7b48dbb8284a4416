"""pydantic-ai: a model for its agents, over a client of this library.

from hybrid_llm.integrations.pydantic_ai import HybridModel
from pydantic_ai import Agent

agent = Agent(HybridModel(config="hybrid.yaml"), model_settings={"hybrid_privacy": {"phi"}})
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.core.errors import HybridLLMError, NoEligibleBackend, SecurityError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.request import GenerateOptions, Message
from hybrid_llm.integrations.common import AUTO, Config, aclient_for, both, details, mapped, options_of
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.failures import Failure, failure_of
from hybrid_llm.router.names import model_of

try:
    from pydantic_ai import exceptions
    from pydantic_ai.messages import FinishReason as Reason
    from pydantic_ai.messages import (
        ModelMessage,
        ModelResponse,
        ModelResponsePart,
        ModelResponseStreamEvent,
        TextPart,
        ThinkingPart,
        ToolCallPart,
    )
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, check_allow_model_requests
    from pydantic_ai.profiles import ModelProfile, ModelProfileSpec
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.usage import RequestUsage

    from hybrid_llm.integrations.pydantic_ai_prompt import prompt_of, tool_options
except ImportError as error:
    raise ImportError(f"HybridModel needs pydantic-ai-slim: {install_hint('pydantic-ai')}") from error

if TYPE_CHECKING:
    from pydantic_ai import RunContext

    from hybrid_llm.router.execution.stream import AsyncStream

_PROVIDER: Final = "hybrid-llm"
_OURS: Final = "hybrid_"
_SETTINGS: Final[Mapping[str, str]] = {
    **{name: name for name in ("max_tokens", "temperature", "top_p", "top_k", "seed", "parallel_tool_calls")},
    **{name: name for name in ("presence_penalty", "frequency_penalty")},
    "stop_sequences": "stop",
    "timeout": "deadline",
}
"""pydantic-ai's settings -> our options."""
_PROFILE: Final = ModelProfile(
    supports_tools=True,
    supports_json_schema_output=True,
    supports_json_object_output=True,
    default_structured_output_mode="native",
)
_REASONS: Final[Mapping[FinishReason, Reason]] = {FinishReason.STOP: "stop", FinishReason.TOOL_CALLS: "tool_call"}
"""Our reasons -> pydantic-ai's; the others are `length`."""
_ERRORS: Final[Mapping[str, type[Exception]]] = {
    "context_length_exceeded": exceptions.ModelContextWindowExceededError,
    "content_filter": exceptions.ContentFilterError,
    "insufficient_quota": exceptions.ModelQuotaExceededError,
    "overloaded": exceptions.ModelOverloadedError,
    "backend_unavailable": exceptions.ModelUnavailableError,
    "stream_interrupted": exceptions.ModelConnectionError,
    "deadline_exceeded": exceptions.ModelTimeoutError,
}


class HybridModelSettings(ModelSettings, total=False):  # type: ignore[call-arg,unused-ignore]  # Any if not installed
    """Settings of a request: pydantic-ai's own, and options of `generate` with a prefix."""

    hybrid_privacy: frozenset[str] | set[str] | Sequence[str]
    hybrid_task: str
    hybrid_deadline: float
    hybrid_priority: int
    hybrid_session_id: str
    hybrid_tenant: str
    hybrid_backends: Sequence[str]
    hybrid_min_p: float
    hybrid_repetition_penalty: float


class HybridModel(Model[None]):
    """A model that answers on the device or in the cloud, as a policy decides."""

    unsupported_settings = frozenset(("max_retries", "logit_bias", "extra_headers", "extra_body", "service_tier"))
    _unsupported_file_inputs = frozenset({"image", "document", "audio", "video"})

    def __init__(
        self,
        model_name: str = AUTO,
        *,
        client: HybridLLM | None = None,
        config: Config | None = None,
        profile: ModelProfileSpec | None = None,
        settings: ModelSettings | None = None,
    ) -> None:
        """Make a model of a client.

        Args:
            model_name: `auto`: the policy decides; else the name of a backend, or of its model.
            client: What answers; it is not closed. By default *config*, else what `HYBRID_LLM_CONFIG` names.
            config: A `hybrid.yaml`.
            profile: What pydantic-ai is to know of the model; by default tools, and answers that follow a schema.
            settings: What every request gets; its privacy tags count beside those of a request.
        """
        self._model_name = model_name
        self._client = client
        self._config = config
        super().__init__(settings=settings, profile=profile or _PROFILE)

    @property
    def model_name(self) -> str:
        """What was asked for; a response has the name of the model that answered."""
        return self._model_name

    @property
    def system(self) -> str:
        """The name of this library."""
        return _PROVIDER

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Answer a conversation."""
        check_allow_model_requests()
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        with mapped(_as_theirs(self._model_name)):
            client = await aclient_for(self._client, self._config)
            options = self._options(client, settings or {}, parameters)
            return _response(client, await client.agenerate(self._prompt(messages, parameters), **options))

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse, None]:
        """Answer a conversation piece by piece; leaving it stops the work of the backend."""
        check_allow_model_requests()
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        with mapped(_as_theirs(self._model_name)):
            client = await aclient_for(self._client, self._config)
            options = self._options(client, settings or {}, parameters)
            async with client.astream(self._prompt(messages, parameters), **options) as stream:
                yield HybridStreamedResponse(parameters, client, stream, self._model_name)

    async def count_tokens(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> RequestUsage:
        """Tokens of a conversation, counted by the model on this device where there is one, else estimated."""
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        client = await aclient_for(self._client, self._config)
        tools = self._options(client, settings or {}, parameters).get("tools")
        return RequestUsage(input_tokens=await client.acount_tokens(self._prompt(messages, parameters), tools=tools))

    def _options(
        self, client: HybridLLM, settings: Mapping[str, Any], parameters: ModelRequestParameters
    ) -> GenerateOptions:
        call: Json = {ours: settings[theirs] for theirs, ours in _SETTINGS.items() if theirs in settings}
        call |= {name.removeprefix(_OURS): value for name, value in settings.items() if name.startswith(_OURS)}
        if parameters.output_mode == "native" and parameters.output_object is not None:
            call["output_schema"] = parameters.output_object.json_schema
        call |= tool_options(settings.get("tool_choice"), parameters)
        own = (self.settings or {}).get("hybrid_privacy")
        return options_of(client, {"privacy": own}, call, model=self._model_name)

    def _prompt(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> list[Message]:
        instructions = self._get_instruction_parts(messages, parameters) or ()
        return prompt_of(messages, [part.content for part in instructions])


@dataclass
class HybridStreamedResponse(StreamedResponse):
    """One answer, while it comes."""

    _client: HybridLLM
    _stream: AsyncStream
    _asked: str
    _timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        with mapped(_as_theirs(self._asked)):
            async for chunk in self._stream:
                for event in self._events(chunk):
                    yield event
            if not self.cancelled:
                self._end(self._stream.generation)

    def _events(self, chunk: Chunk) -> Iterator[ModelResponseStreamEvent]:
        parts = self._parts_manager
        if chunk.reasoning:
            yield from parts.handle_thinking_delta(vendor_part_id="reasoning", content=chunk.reasoning)
        if chunk.text:
            yield from parts.handle_text_delta(vendor_part_id="content", content=chunk.text)
        for each in chunk.tool_calls:
            yield from parts.handle_tool_call_delta_events(
                vendor_part_id=each.index,
                tool_name=each.name or None,
                args=each.arguments or None,
                tool_call_id=each.id or None,
            )

    def _end(self, generation: Generation) -> None:
        self._usage = _usage(generation.usage)
        self.provider_response_id = generation.request_id
        self.provider_details = details(self._client, generation)
        self.finish_reason = _REASONS.get(generation.finish_reason, "length")

    async def close_stream(self) -> None:
        """Stop the work of the backend."""
        await self._stream.aclose()

    @property
    def model_name(self) -> str:
        """The model that answers; before the first piece, what was asked for."""
        backend = self._stream.backend
        return model_of(self._client.backends, backend) if backend else self._asked

    @property
    def provider_name(self) -> str:
        """The name of this library."""
        return _PROVIDER

    @property
    def provider_url(self) -> None:
        """There is none."""

    @property
    def timestamp(self) -> datetime:
        """When the answer was asked for."""
        return self._timestamp


def _response(client: HybridLLM, generation: Generation) -> ModelResponse:
    made = details(client, generation)
    return ModelResponse(
        parts=list(_parts(generation)),
        usage=_usage(generation.usage),
        model_name=made["model_name"],
        provider_name=_PROVIDER,
        provider_response_id=generation.request_id,
        provider_details=made,
        finish_reason=_REASONS.get(generation.finish_reason, "length"),
    )


def _parts(generation: Generation) -> Iterator[ModelResponsePart]:
    if generation.reasoning:
        yield ThinkingPart(generation.reasoning)
    if generation.text:
        yield TextPart(generation.text)
    for call in generation.tool_calls:
        yield ToolCallPart(call.name, call.arguments, tool_call_id=call.id)


def _usage(usage: Usage) -> RequestUsage:
    return RequestUsage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cache_read_tokens=usage.cached_prompt_tokens,
        details={"reasoning_tokens": usage.reasoning_tokens},
    )


def _as_theirs(model_name: str) -> Callable[[HybridLLMError], HybridLLMError]:
    """Makes errors of ours such of pydantic-ai too.

    `FallbackModel` goes on after those with another model, which knows no policy: where this one allows no backend, or
    trust is broken, the error stays ours alone.
    """

    def made(error: HybridLLMError) -> HybridLLMError:
        if isinstance(error, NoEligibleBackend | SecurityError):
            return error
        failure = failure_of(error)
        return both(error, _kind_of(failure), **_attributes(failure, model_name))

    return made


def _kind_of(failure: Failure) -> type[Exception]:
    if failure.code in _ERRORS:
        return _ERRORS[failure.code]
    return exceptions.ModelRequestRejectedError if failure.status < 500 else exceptions.ModelServerError


def _attributes(failure: Failure, model_name: str) -> Json:
    return {
        "message": failure.message,
        "model_name": model_name,
        "body": None,
        "provider_error_code": failure.code,
        "provider_error_type": None,
        "retry_after": failure.retry_after,
        "in_stream": False,
        "phase": None,
    }
