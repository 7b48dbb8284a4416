"""The keys of a backend of kind `openai` in `hybrid.yaml`. Imports no HTTP: the file is read without it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from hybrid_llm.backends.openai.settings import OpenAISettings
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

if TYPE_CHECKING:
    from hybrid_llm.backends.openai.backend import OpenAIBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISpec(OpenAISettings):
    """A server that speaks OpenAI's Chat Completions: a hosted API, vLLM, SGLang, llama.cpp, Ollama, LM Studio."""

    kind: ClassVar[str] = "openai"

    def open(self) -> OpenAIBackend:
        """Make the backend; ConfigError if the URL, the key or a file is unusable. Nothing is connected yet."""
        self.check()
        if find_spec("httpx") is None:
            raise ConfigError(f"{self.name}: a backend of kind `openai` needs httpx: {install_hint('openai')}")
        from hybrid_llm.backends.openai.backend import OpenAIBackend

        return OpenAIBackend(self)
