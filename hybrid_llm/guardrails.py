"""Guardrails that apps pass to a client: `HybridLLM(..., guardrails=[hybrid_llm.guardrails.default()])`.

They judge what requests ask and what answers say, and refuse with `ContentRefused`. Where texts may go is another
matter: that is decided by the privacy tags of a policy.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from hybrid_llm.core.protocols import ALLOW, Direction, Guardrail, Verdict
from hybrid_llm.router.guardrails.denylist import Denylist
from hybrid_llm.router.guardrails.harms import CATEGORIES
from hybrid_llm.router.guardrails.rules import GuardrailRule

if TYPE_CHECKING:
    from hybrid_llm.router.guardrails.default import DefaultGuardrail
    from hybrid_llm.router.guardrails.encoder import EncoderGuardrail

__all__ = [
    "ALLOW",
    "CATEGORIES",
    "Denylist",
    "Direction",
    "EncoderGuardrail",
    "Guardrail",
    "GuardrailRule",
    "Verdict",
    "default",
]


def default(categories: Collection[str] = CATEGORIES) -> DefaultGuardrail:
    """The guardrail that needs no download; docs/guardrails.md says what it finds, as measured, and what it does not.

    Raises:
        ConfigError: there is no such category.
    """
    from hybrid_llm.router.guardrails.default import DefaultGuardrail

    return DefaultGuardrail(categories)


def __getattr__(name: str) -> object:
    """The guardrail that needs onnxruntime, on first use."""
    if name == "EncoderGuardrail":
        from hybrid_llm.router.guardrails.encoder import EncoderGuardrail

        return EncoderGuardrail
    raise AttributeError(f"module 'hybrid_llm.guardrails' has no attribute {name!r}")
