"""The keys of a backend of kind `openai` in `hybrid.yaml`. Imports no HTTP: the file is read without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hybrid_llm.backends.openai.settings import OpenAISettings

if TYPE_CHECKING:
    from hybrid_llm.backends.http.backend import HttpBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISpec(OpenAISettings):
    """A server that speaks OpenAI's Chat Completions: a hosted API, vLLM, SGLang, llama.cpp, Ollama, LM Studio."""

    kind: ClassVar[str] = "openai"

    def open(self) -> HttpBackend:
        """Make the backend; ConfigError if the URL, the key or a file is unusable. Nothing is connected yet."""
        self.check()
        from hybrid_llm.backends.http.backend import HttpBackend
        from hybrid_llm.backends.openai.api import ChatCompletions

        return HttpBackend(self, ChatCompletions(self))
