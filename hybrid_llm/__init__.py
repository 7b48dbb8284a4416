"""hybrid_llm: one `generate()`, answered on the device where it can be, and in the cloud where it must be.

    import hybrid_llm
    print(hybrid_llm.generate("Is this review positive? 'A warm, funny film.'").text)

Importing this loads no model runtime, opens no socket and starts no thread: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Final

from hybrid_llm.core.errors import out_of_files

if TYPE_CHECKING:
    from hybrid_llm import errors, guardrails, tasks
    from hybrid_llm.backends.node.engine import Engine
    from hybrid_llm.core.clearance import Clearance, Cleared
    from hybrid_llm.core.decision import Decision
    from hybrid_llm.core.errors import ConfigError, ContentRefused, HybridLLMError, InvalidRequest, PolicyError
    from hybrid_llm.core.generation import (
        AnswerWarning,
        AttemptRecord,
        Chunk,
        Continuation,
        Departure,
        FinishReason,
        Generation,
        Timings,
        Usage,
    )
    from hybrid_llm.core.logprobs import Alternative, TokenLogprob
    from hybrid_llm.core.protocols import Backend, Capabilities, Detector, Direction, Finding, Guardrail, Verdict
    from hybrid_llm.core.request import GenerateOptions, Location, Message, Request, RequestMetadata
    from hybrid_llm.core.signals import BackendState, DeviceSignals, NetworkSignals, Signals
    from hybrid_llm.core.tools import Tool, ToolCall, ToolCallDelta
    from hybrid_llm.policies import Policy, load_policy
    from hybrid_llm.policies.watch import PolicySource
    from hybrid_llm.router.caching.answers import AnswerCache, CachedAnswer
    from hybrid_llm.router.caching.disk import DiskCache
    from hybrid_llm.router.caching.memory import MemoryCache
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.default import adecide, agenerate, arun_tools, astream, decide, generate, run_tools, stream
    from hybrid_llm.router.execution.stream import AsyncStream, Stream
    from hybrid_llm.router.observability.hooks import Hook, RequestEvent
    from hybrid_llm.router.observability.recorder import DecisionRecorder
    from hybrid_llm.router.preview import Preview
    from hybrid_llm.router.signals import FixedSensors, Sensors, SystemSensors
    from hybrid_llm.router.spending.ledger import Ledger
    from hybrid_llm.router.tool_loop import ToolRun
    from hybrid_llm.router.tool_steps import ToolStep

__version__: Final = "0.1.0"

_HOMES: Final = {
    "backends.node.engine": ("Engine",),
    "core.clearance": (
        "Clearance",
        "Cleared",
    ),
    "core.decision": ("Decision",),
    "core.errors": (
        "ConfigError",
        "ContentRefused",
        "HybridLLMError",
        "InvalidRequest",
        "PolicyError",
    ),
    "core.generation": (
        "AnswerWarning",
        "AttemptRecord",
        "Chunk",
        "Continuation",
        "Departure",
        "FinishReason",
        "Generation",
        "Timings",
        "Usage",
    ),
    "core.logprobs": (
        "Alternative",
        "TokenLogprob",
    ),
    "core.protocols": (
        "Backend",
        "Capabilities",
        "Detector",
        "Direction",
        "Finding",
        "Guardrail",
        "Verdict",
    ),
    "core.request": (
        "GenerateOptions",
        "Location",
        "Message",
        "Request",
        "RequestMetadata",
    ),
    "core.signals": (
        "BackendState",
        "DeviceSignals",
        "NetworkSignals",
        "Signals",
    ),
    "core.tools": (
        "Tool",
        "ToolCall",
        "ToolCallDelta",
    ),
    "policies": (
        "Policy",
        "load_policy",
    ),
    "policies.watch": ("PolicySource",),
    "router.caching.answers": (
        "AnswerCache",
        "CachedAnswer",
    ),
    "router.caching.disk": ("DiskCache",),
    "router.caching.memory": ("MemoryCache",),
    "router.client": ("HybridLLM",),
    "router.default": (
        "adecide",
        "agenerate",
        "arun_tools",
        "astream",
        "decide",
        "generate",
        "run_tools",
        "stream",
    ),
    "router.execution.stream": (
        "AsyncStream",
        "Stream",
    ),
    "router.observability.hooks": (
        "Hook",
        "RequestEvent",
    ),
    "router.observability.recorder": ("DecisionRecorder",),
    "router.preview": ("Preview",),
    "router.signals": (
        "FixedSensors",
        "Sensors",
        "SystemSensors",
    ),
    "router.spending.ledger": ("Ledger",),
    "router.tool_loop": ("ToolRun",),
    "router.tool_steps": ("ToolStep",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Alternative",
    "AnswerCache",
    "AnswerWarning",
    "AsyncStream",
    "AttemptRecord",
    "Backend",
    "BackendState",
    "CachedAnswer",
    "Capabilities",
    "Chunk",
    "Clearance",
    "Cleared",
    "ConfigError",
    "ContentRefused",
    "Continuation",
    "Decision",
    "DecisionRecorder",
    "Departure",
    "Detector",
    "DeviceSignals",
    "Direction",
    "DiskCache",
    "Engine",
    "Finding",
    "FinishReason",
    "FixedSensors",
    "GenerateOptions",
    "Generation",
    "Guardrail",
    "Hook",
    "HybridLLM",
    "HybridLLMError",
    "InvalidRequest",
    "Ledger",
    "Location",
    "MemoryCache",
    "Message",
    "NetworkSignals",
    "Policy",
    "PolicyError",
    "PolicySource",
    "Preview",
    "Request",
    "RequestEvent",
    "RequestMetadata",
    "Sensors",
    "Signals",
    "Stream",
    "SystemSensors",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolRun",
    "ToolStep",
    "Usage",
    "Verdict",
    "adecide",
    "agenerate",
    "arun_tools",
    "astream",
    "decide",
    "errors",
    "generate",
    "guardrails",
    "load_policy",
    "run_tools",
    "stream",
    "tasks",
]

# In a checkout, `router`, `policies`, `backends` and `protos` are links to the folders at the top. Git writes them as
# small text files where it may not make links, and every import below would fail with a message that explains nothing.
if not os.path.isdir(os.path.join(__path__[0], "router")):
    raise ImportError(
        f"{os.path.join(__path__[0], 'router')} is not a folder: this checkout of hybrid-llm has no symbolic links, or "
        "it was installed from one. In the checkout, run `git config core.symlinks true`, then `git checkout -- "
        "hybrid_llm` (on Windows with developer mode switched on), and `pip install .` again; or install a wheel"
    )


def _module(name: str) -> object:
    try:
        return importlib.import_module(name)
    except (OSError, ImportError) as error:
        if (typed := out_of_files(error)) is not None:
            raise typed from None
        raise


if not TYPE_CHECKING:  # for a type checker it would make every misspelt name right

    def __getattr__(name: str) -> object:
        """Load the module that *name* lives in, on first use (PEP 562)."""
        if name in ("errors", "guardrails", "tasks"):
            return _module(f"hybrid_llm.{name}")
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'hybrid_llm' has no attribute {name!r}")
        value = getattr(_module(f"hybrid_llm.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
