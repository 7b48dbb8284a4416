"""LiteLLM: a provider of its own, over a client of this library.

import litellm
from hybrid_llm.integrations.litellm import HybridCustomLLM

litellm.custom_provider_map = [{"provider": "hybrid", "custom_handler": HybridCustomLLM(config="hybrid.yaml")}]
print(litellm.completion("hybrid/auto", [{"role": "user", "content": "Hello"}], privacy=["phi"]))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from hybrid_llm.core.errors import HybridLLMError, NoEligibleBackend, SecurityError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.integrations.common import Config, aclient_for, both, client_for, details, mapped, options_of
from hybrid_llm.integrations.openai_form import as_options
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.failures import failure_of

try:
    import httpx
    from litellm import exceptions
    from litellm.llms.custom_llm import CustomLLM
    from litellm.types.utils import (
        Choices,
        CompletionTokensDetailsWrapper,
        Delta,
        GenericStreamingChunk,
        Message,
        ModelResponse,
        ModelResponseStream,
        PromptTokensDetailsWrapper,
        StreamingChoices,
    )
    from litellm.types.utils import Usage as LiteLLMUsage
except ImportError as error:
    raise ImportError(f"HybridCustomLLM needs litellm: {install_hint('litellm')}") from error

Piece: TypeAlias = "ModelResponseStream | GenericStreamingChunk"
_MESSAGE: Final = ("role", "content", "tool_calls", "tool_call_id", "reasoning_content", "refusal")
"""Fields of a message that a model is to see."""
_PROVIDER: Final = "hybrid-llm"
_BY_CODE: Final[Mapping[str, Callable[..., Exception]]] = {
    "context_length_exceeded": exceptions.ContextWindowExceededError,
    "content_filter": exceptions.ContentPolicyViolationError,
}
_BY_STATUS: Final[Mapping[int, Callable[..., Exception]]] = {
    400: exceptions.BadRequestError,
    413: exceptions.BadRequestError,
    429: exceptions.RateLimitError,
    503: exceptions.ServiceUnavailableError,
    504: exceptions.Timeout,
}
_OWN_TIMEOUT_S: Final = 600.0
"""What LiteLLM passes where the app sets no timeout."""


class HybridCustomLLM(CustomLLM):
    """Answers `litellm.completion` and `acompletion` on the device or in the cloud, as a policy decides.

    The part of a model's name after the provider's is `auto`, a backend, or the model of backends. Options of
    `generate` are arguments of `completion`.
    """

    def __init__(self, *, client: HybridLLM | None = None, config: Config | None = None) -> None:
        """*client* answers, else the file *config*, else what `HYBRID_LLM_CONFIG` names."""
        super().__init__()
        self._client = client
        self._config = config

    def completion(self, model: str, messages: list[Json], **given: Any) -> ModelResponse:
        """A whole answer."""
        with mapped(_as_theirs(model)):
            client = client_for(self._client, self._config)
            generation = client.generate(prompt_of(messages), **_options(client, model, given))
            return _response(client, generation)

    async def acompletion(self, model: str, messages: list[Json], **given: Any) -> ModelResponse:
        """Do as `completion` does, without blocking the event loop."""
        with mapped(_as_theirs(model)):
            client = await aclient_for(self._client, self._config)
            options = _options(client, model, given)
            return _response(client, await client.agenerate(prompt_of(messages), **options))

    def streaming(self, model: str, messages: list[Json], **given: Any) -> Iterator[Piece]:
        """An answer piece by piece."""
        with mapped(_as_theirs(model)):
            client = client_for(self._client, self._config)
            options = _options(client, model, given)
            with client.stream(prompt_of(messages), **options) as stream:
                for chunk in stream:
                    yield _piece(chunk)
            yield _last(client, stream.generation)

    async def astreaming(self, model: str, messages: list[Json], **given: Any) -> AsyncIterator[Piece]:
        """Do as `streaming` does, without blocking the event loop."""
        with mapped(_as_theirs(model)):
            client = await aclient_for(self._client, self._config)
            options = _options(client, model, given)
            async with client.astream(prompt_of(messages), **options) as stream:
                async for chunk in stream:
                    yield _piece(chunk)
            yield _last(client, stream.generation)


def prompt_of(messages: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The conversation as `generate` takes it, without the fields that are no part of the text."""
    return [{name: message[name] for name in _MESSAGE if message.get(name) is not None} for message in messages]


def _options(client: HybridLLM, model: str, given: Mapping[str, Any]) -> GenerateOptions:
    """The options of one call; LiteLLM has checked those that are OpenAI's, and passes ours on."""
    call: Json = {**given["optional_params"], **given["optional_params"].get("extra_body", {})}
    for name in ("stream", "stream_options", "extra_body"):
        call.pop(name, None)
    timeout = given.get("timeout")
    if isinstance(timeout, int | float) and timeout < _OWN_TIMEOUT_S:
        call.setdefault("deadline", float(timeout))
    return options_of(client, {}, as_options(call), model=model)


def _response(client: HybridLLM, generation: Generation) -> ModelResponse:
    made = details(client, generation)
    message = Message(
        content=generation.text or None,
        tool_calls=[call.as_openai() for call in generation.tool_calls],
        reasoning_content=generation.reasoning or None,
        provider_specific_fields={"hybrid": made},
    )
    response = ModelResponse(
        id=generation.request_id,
        model=made["model_name"],
        choices=[Choices(finish_reason=_reason(generation.finish_reason), index=0, message=message)],
        usage=_usage(generation.usage),
    )
    response._hidden_params["response_cost"] = made["cost"]
    return response


def _piece(chunk: Chunk) -> ModelResponseStream:
    delta = Delta(
        content=chunk.text or None,
        reasoning_content=chunk.reasoning or None,
        tool_calls=[_call_delta(each) for each in chunk.tool_calls] or None,
    )
    return ModelResponseStream(choices=[StreamingChoices(index=0, delta=delta, finish_reason=None)])


def _call_delta(delta: ToolCallDelta) -> Json:
    function = {"name": delta.name or None, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id or None, "type": "function", "function": function}


def _last(client: HybridLLM, generation: Generation) -> GenericStreamingChunk:
    """What is known at the end alone."""
    return GenericStreamingChunk(
        text="",
        is_finished=True,
        finish_reason=_reason(generation.finish_reason),
        usage=cast(Any, _usage(generation.usage).model_dump()),
        index=0,
        provider_specific_fields={"hybrid": details(client, generation)},
    )


def _reason(reason: FinishReason) -> str:
    return "length" if reason is FinishReason.REPETITION else str(reason)


def _usage(usage: Usage) -> LiteLLMUsage:
    return LiteLLMUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details=PromptTokensDetailsWrapper(cached_tokens=usage.cached_prompt_tokens),
        completion_tokens_details=CompletionTokensDetailsWrapper(reasoning_tokens=usage.reasoning_tokens),
    )


def _as_theirs(model: str) -> Callable[[HybridLLMError], HybridLLMError]:
    def made(error: HybridLLMError) -> HybridLLMError:
        foreign = _foreign(error, {"model": model, "llm_provider": _PROVIDER})
        return both(error, type(foreign), **vars(foreign))

    return made


def _foreign(error: HybridLLMError, known: Json) -> Exception:
    """LiteLLM's error, which it leaves as it is, and after which it tries again where that may help."""
    failure = failure_of(error)
    known = {**known, "message": failure.message}
    status = 403 if isinstance(error, NoEligibleBackend | SecurityError) else failure.status
    made = _BY_CODE.get(failure.code) or _BY_STATUS.get(status)
    if made is not None:
        return made(**known)
    if status != 403:
        return exceptions.APIError(status_code=status, **known)
    response = httpx.Response(403, request=httpx.Request("POST", "https://hybrid-llm.invalid"))
    return exceptions.PermissionDeniedError(**known, response=response)


hybrid_custom_llm: Final = HybridCustomLLM()
"""For the file of LiteLLM's proxy: `custom_handler: hybrid_llm.integrations.litellm.hybrid_custom_llm`."""
