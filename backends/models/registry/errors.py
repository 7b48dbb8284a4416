"""What can go wrong between a registry and us, besides a wrong option (`ConfigError`) and bytes that were changed."""

from __future__ import annotations

from hybrid_llm.core.errors import ConfigError, HybridLLMError


class RegistryError(HybridLLMError):
    """The storage of a registry cannot be used now: unreachable, full, read-only, or it refuses the credentials.

    *url* is the registry's; *retryable*: the same call may succeed later.
    """

    def __init__(self, message: str, *, url: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.url = url
        self.retryable = retryable


class AliasMoved(RegistryError):
    """Another one moved the alias first; nothing was changed. *alias* is its name."""

    def __init__(self, message: str, *, url: str, alias: str) -> None:
        super().__init__(message, url=url, retryable=True)
        self.alias = alias


class NoSuchVersion(ConfigError):
    """The registry has no such model, version or alias."""
