"""What is set of a server that speaks Messages. Imports no HTTP."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hybrid_llm.backends.http.settings import KEY_HEADER, URL, HttpSettings
from hybrid_llm.core.fields import Flag, key

_HOST: Final = "api.anthropic.com"
_CLAUDE: Final = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2}))?(?!\d)")
"""`claude-3-5-sonnet-20241022`, `claude-opus-4-20250514`, `claude-haiku-4-5`: the generation, then a date or a name."""
_LAST_PREFILL: Final = (4, 5)
"""The last generation of Claude that continues a partial answer; later ones refuse it with 400."""
_LAST_SAMPLING: Final = (4, 6)
"""The last one that takes a temperature."""
_NEWEST: Final = (99, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicSettings(HttpSettings):
    """A server that speaks Anthropic's Messages: Anthropic's own, or another with the same API."""

    base_url: str = key(URL, "Its URL, as clients of Anthropic take it: without `/v1`.", default=f"https://{_HOST}")
    prefill: bool | None = key(
        Flag(),
        "Whether the model continues a partial answer; left out, Claude up to 4.5 does, and others are asked to go on.",
        default=None,
    )
    sampling: bool | None = key(
        Flag(),
        "Whether it takes `temperature`, `top_p` and `top_k`; left out, all but Claude after 4.6 do.",
        default=None,
    )
    key_header: str = key(KEY_HEADER, "How the key is sent.", default="x-api-key")

    @property
    def is_anthropic(self) -> bool:
        """Whether it is Anthropic's own server."""
        return self.host == _HOST

    @property
    def generation(self) -> tuple[int, int] | None:
        """Which Claude the model is, by its name; None if it is none."""
        if "claude" not in self.model:
            return None
        found = _CLAUDE.search(self.model)
        return (int(found[1]), int(found[2] or 0)) if found else _NEWEST

    @property
    def takes_prefill(self) -> bool:
        """Whether the model continues a partial answer."""
        if self.prefill is not None:
            return self.prefill
        return self.generation is not None and self.generation <= _LAST_PREFILL

    @property
    def takes_sampling(self) -> bool:
        """Whether it takes a temperature."""
        if self.sampling is not None:
            return self.sampling
        return self.generation is None or self.generation <= _LAST_SAMPLING
