"""hybrid_llm: one `generate()`, answered on the device where it can be, and in the cloud where it must be.

    import hybrid_llm
    print(hybrid_llm.generate("Is this review positive? 'A warm, funny film.'").text)

Importing this loads no model runtime, opens no socket and starts no thread: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hybrid_llm.backends.base import Backend, Capabilities
    from hybrid_llm.policies import Policy, load_policy
    from hybrid_llm.router import errors
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.default import agenerate, astream, decide, generate, stream
    from hybrid_llm.router.detectors import Detector
    from hybrid_llm.router.errors import ConfigError, HybridLLMError, InvalidRequest, PolicyError
    from hybrid_llm.router.hooks import Hook, RequestEvent
    from hybrid_llm.router.signals import Signals
    from hybrid_llm.router.types import (
        Chunk,
        Decision,
        FinishReason,
        Generation,
        Location,
        Message,
        Request,
        Timings,
        Tool,
        Usage,
    )

__version__: Final = "0.1.0"

_HOMES: Final = {
    "backends.base": ("Backend", "Capabilities"),
    "policies": ("Policy", "load_policy"),
    "router.client": ("HybridLLM",),
    "router.default": ("agenerate", "astream", "decide", "generate", "stream"),
    "router.detectors": ("Detector",),
    "router.errors": ("ConfigError", "HybridLLMError", "InvalidRequest", "PolicyError"),
    "router.hooks": ("Hook", "RequestEvent"),
    "router.signals": ("Signals",),
    "router.types": (
        "Chunk",
        "Decision",
        "FinishReason",
        "Generation",
        "Location",
        "Message",
        "Request",
        "Timings",
        "Tool",
        "Usage",
    ),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backend",
    "Capabilities",
    "Chunk",
    "ConfigError",
    "Decision",
    "Detector",
    "FinishReason",
    "Generation",
    "Hook",
    "HybridLLM",
    "HybridLLMError",
    "InvalidRequest",
    "Location",
    "Message",
    "Policy",
    "PolicyError",
    "Request",
    "RequestEvent",
    "Signals",
    "Timings",
    "Tool",
    "Usage",
    "agenerate",
    "astream",
    "decide",
    "errors",
    "generate",
    "load_policy",
    "stream",
]


def __getattr__(name: str) -> object:
    """Load the room that *name* lives in, on first use (PEP 562)."""
    if name == "errors":
        return importlib.import_module("hybrid_llm.router.errors")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'hybrid_llm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hybrid_llm.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
