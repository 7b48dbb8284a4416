"""Chat Completions as an API of a backend."""

from __future__ import annotations

from collections.abc import Mapping

from hybrid_llm.backends.http.api import Call, Get, Known, Reply
from hybrid_llm.backends.openai.decode import ChatAnswer
from hybrid_llm.backends.openai.describe import describe
from hybrid_llm.backends.openai.encode import CONTINUES, payload
from hybrid_llm.backends.openai.settings import OpenAISettings
from hybrid_llm.core.clearance import Cleared


class ChatCompletions:
    """OpenAI's Chat Completions, in the dialect of one server."""

    route = "chat/completions"
    listing = "models"
    headers: Mapping[str, str] = {}

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings

    def call(self, cleared: Cleared, known: Known) -> Call:
        """The call for a cleared request: see `encode.payload`."""
        settings, request = self._settings, cleared.request
        data = payload(cleared, settings, known.server)
        asks_to_go_on = settings.understood(known.server) not in CONTINUES
        partial = request.answer_prefix if asks_to_go_on else ""
        tokens = request.prompt_tokens
        return Call(data=data, answer=ChatAnswer(backend=settings.name, prompt_tokens=tokens, partial=partial))

    def describe(self, listed: Reply, get: Get) -> Known:
        """What the server is, by its list of models and what its kind reports besides."""
        return describe(listed, get, self._settings)
