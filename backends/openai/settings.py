"""What is set of a server that speaks Chat Completions. Imports no HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hybrid_llm.backends.http.settings import URL, HttpSettings
from hybrid_llm.backends.wire.sealing.pins import SealedKeys
from hybrid_llm.core.fields import Choice, Flag, key

Dialect = Literal["auto", "openai", "vllm", "sglang", "llama.cpp", "ollama", "other"]
_OPENAI_HOST: Final = "api.openai.com"
_AZURE_HOST: Final = ".openai.azure.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings(HttpSettings):
    """A server that speaks OpenAI's Chat Completions: a hosted API, vLLM, SGLang, llama.cpp, Ollama, LM Studio."""

    base_url: str = key(URL, "Its URL, as clients of OpenAI take it: it ends in `/v1`.")
    dialect: Dialect = key(
        Choice.of("auto", "openai", "vllm", "sglang", "llama.cpp", "ollama", "other"),
        "What the server understands besides; `auto` finds it out, by its host and how it lists its models.",
        default="auto",
    )
    logprobs: bool = key(Flag(), "Whether it gives log-probabilities.", default=False)
    sealed: SealedKeys | None = key(
        SealedKeys.table(),
        "Seals prompts and answers between this app and the server by EHBP, whatever ends TLS in between.",
        default=None,
        examples=({"keys": "sealing.pub"},),
    )

    @property
    def sealing_keys(self) -> Path | None:
        """The file of accepted keys; None where nothing is sealed."""
        return None if self.sealed is None else self.sealed.keys

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own server, or Azure's."""
        return self.host == _OPENAI_HOST or self.is_azure

    @property
    def is_azure(self) -> bool:
        """Whether it is Azure's: its list has models, and requests name deployments."""
        return self.host.endswith(_AZURE_HOST)

    @property
    def declared_server(self) -> str:
        """What the file says that the server is; empty if it leaves that open."""
        return "" if self.dialect in ("auto", "other") else self.dialect

    @property
    def gives_logprobs(self) -> bool:
        """Whether it gives log-probabilities."""
        return self.logprobs

    @property
    def takes_penalties(self) -> bool:
        """Whether its API has presence and frequency penalties: it does."""
        return True

    def understood(self, server: str) -> str:
        """The dialect, never `auto`; *server* is what the server was found to be."""
        if self.dialect != "auto":
            return self.dialect
        if self.is_openai:
            return "openai"
        return server if server in ("vllm", "sglang", "llama.cpp", "ollama") else "other"
