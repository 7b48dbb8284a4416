"""Messages as an API of a backend."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from hybrid_llm.backends.anthropic.decode import MessageAnswer
from hybrid_llm.backends.anthropic.encode import continues, payload
from hybrid_llm.backends.anthropic.settings import AnthropicSettings
from hybrid_llm.backends.http.api import Call, Get, Known, Reply
from hybrid_llm.backends.http.document import count_of, error_of, flag_of, object_of
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.jsonable import Json


class Messages:
    """Anthropic's Messages, of one server."""

    route = "v1/messages"
    headers: Mapping[str, str] = {"anthropic-version": "2023-06-01"}

    def __init__(self, settings: AnthropicSettings) -> None:
        self._settings = settings
        self.listing = f"v1/models/{quote(settings.model, safe='')}"

    def call(self, cleared: Cleared, _: Known) -> Call:
        """The call for a cleared request: see `encode.payload`."""
        settings, request = self._settings, cleared.request
        data = payload(cleared, settings)
        partial = "" if continues(request, settings) else request.answer_prefix
        tokens = request.prompt_tokens
        return Call(data=data, answer=MessageAnswer(backend=settings.name, prompt_tokens=tokens, partial=partial))

    def describe(self, listed: Reply, _: Get) -> Known:
        """What the server reports of the model; a server of another kind need not have that route."""
        model, is_anthropic = listed.fields, self._settings.is_anthropic
        name = "anthropic" if is_anthropic else ""
        if not model:
            return Known(server=name, lists_model=False if _is_missing(listed) else None, refuses_others=is_anthropic)
        return Known(
            server=name,
            context_window=count_of(model.get("max_input_tokens")),
            output_schema=_supports(model, "structured_outputs"),
            lists_model=model.get("lifecycle") != "retired",
            refuses_others=is_anthropic,
        )


def _is_missing(reply: Reply) -> bool:
    """Whether the server knows the route, and not the model."""
    return reply.status == 404 and error_of(reply.document).get("type") == "not_found_error"


def _supports(model: Json, name: str) -> bool | None:
    capability = object_of(object_of(model.get("capabilities")).get(name))
    return flag_of(capability.get("supported"))
