"""hybrid_llm: one `generate()`, answered on the device where it can be, and in the cloud where it must be.

    import hybrid_llm
    print(hybrid_llm.generate("Is this review positive? 'A warm, funny film.'").text)

Importing this loads no model runtime, opens no socket and starts no thread: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hybrid_llm import errors
    from hybrid_llm.core.decision import Decision
    from hybrid_llm.core.errors import ConfigError, HybridLLMError, InvalidRequest, PolicyError
    from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Timings, Usage
    from hybrid_llm.core.protocols import Backend, Capabilities, Detector
    from hybrid_llm.core.request import Location, Message, Request, Tool
    from hybrid_llm.core.signals import Signals
    from hybrid_llm.policies import Policy, load_policy
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.default import agenerate, astream, decide, generate, stream
    from hybrid_llm.router.observability.hooks import Hook, RequestEvent

__version__: Final = "0.1.0"

_HOMES: Final = {
    "core.protocols": ("Backend", "Capabilities", "Detector"),
    "core.decision": ("Decision",),
    "core.errors": ("ConfigError", "HybridLLMError", "InvalidRequest", "PolicyError"),
    "core.generation": ("Chunk", "FinishReason", "Generation", "Timings", "Usage"),
    "core.request": ("Location", "Message", "Request", "Tool"),
    "core.signals": ("Signals",),
    "policies": ("Policy", "load_policy"),
    "router.client": ("HybridLLM",),
    "router.default": ("agenerate", "astream", "decide", "generate", "stream"),
    "router.observability.hooks": ("Hook", "RequestEvent"),
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
        return importlib.import_module("hybrid_llm.errors")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'hybrid_llm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hybrid_llm.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
