"""The keys of a backend of kind `anthropic` in `hybrid.yaml`. Imports no HTTP: the file is read without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hybrid_llm.backends.anthropic.settings import AnthropicSettings

if TYPE_CHECKING:
    from hybrid_llm.backends.http.backend import HttpBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicSpec(AnthropicSettings):
    """A server that speaks Anthropic's Messages: Anthropic's own, or another with the same API."""

    kind: ClassVar[str] = "anthropic"

    def open(self) -> HttpBackend:
        """Make the backend; ConfigError if the URL, the key or a file is unusable. Nothing is connected yet."""
        self.check()
        from hybrid_llm.backends.anthropic.api import Messages
        from hybrid_llm.backends.http.backend import HttpBackend

        return HttpBackend(self, Messages(self))
