"""The client behind `hybrid_llm.generate`: made on first use, closed when Python ends.

It reads the file that `HYBRID_LLM_CONFIG` names; without one it is the model that comes with the library, on this
device, under the built-in policy `balanced`, with no cloud at all.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Final, Unpack

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import GenerateOptions, Prompt
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.execution.answer import AsyncStream, Stream

CONFIG_VARIABLE: Final = "HYBRID_LLM_CONFIG"

_lock = threading.Lock()
_made: list[HybridLLM] = []


def default_client() -> HybridLLM:
    """The one client of this process; ConfigError if `HYBRID_LLM_CONFIG` names a file that is wrong."""
    with _lock:
        if not _made:
            _made.append(_make())
            atexit.register(_made[0].close)
        return _made[0]


def _make() -> HybridLLM:
    path = os.environ.get(CONFIG_VARIABLE)
    if path:
        return HybridLLM.from_config(path)
    from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
    from hybrid_llm.policies import builtin_policy
    from hybrid_llm.router.config.identity import identities
    from hybrid_llm.router.signals.store import PredictionStore, state_folder

    config = EdgeConfig()
    edge = EdgeBackend(config)
    predictions = PredictionStore(state_folder(), identities([config]))
    policy = builtin_policy("balanced", backends={edge.name: edge.location})
    return HybridLLM([edge], policy, predictions=predictions)


def generate(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
    """`HybridLLM.generate` on the default client."""
    return default_client().generate(prompt, **options)


def stream(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
    """`HybridLLM.stream` on the default client."""
    return default_client().stream(prompt, **options)


async def agenerate(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
    """`HybridLLM.agenerate` on the default client."""
    return await default_client().agenerate(prompt, **options)


def astream(prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncStream:
    """`HybridLLM.astream` on the default client."""
    return default_client().astream(prompt, **options)


def decide(prompt: Prompt, **options: Unpack[GenerateOptions]) -> Decision:
    """`HybridLLM.decide` on the default client."""
    return default_client().decide(prompt, **options)
