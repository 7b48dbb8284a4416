"""Fields and shapes that several APIs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hybrid_llm.core.limits import MAX_TOKENS, SAMPLING, STOP_CHARACTERS, STOP_TEXTS
from hybrid_llm.gateway.extensions import NAMES
from hybrid_llm.gateway.parameters import Parameter, ignored, refused, supported
from hybrid_llm.gateway.shapes import ANYTHING, FLAG, NAME, OBJECT, TEXT, Schema, any_of, list_of, number, record, words
from hybrid_llm.gateway.tiers import TIERS

_STOP: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": STOP_CHARACTERS}
STOPS: Final = list_of(_STOP, maxItems=STOP_TEXTS)
_RANGES: Final = {name: number(limits) for name, limits in SAMPLING.items()}
TEMPERATURE: Final = supported(_RANGES["temperature"], "0 is greedy")
TOP_P: Final = supported(_RANGES["top_p"])
TOP_K: Final = supported(_RANGES["top_k"])
SAMPLING_OF_VLLM: Final[Mapping[str, Parameter]] = {
    name: supported(_RANGES[name], "as in vLLM's API; OpenAI's has none")
    for name in ("top_k", "min_p", "repetition_penalty")
}
PENALTIES: Final[Mapping[str, Parameter]] = {
    name: supported(_RANGES[name], "counts tokens of the answer alone")
    for name in ("presence_penalty", "frequency_penalty")
}
SEED: Final = supported(_RANGES["seed"])
STOP: Final = supported(any_of(_STOP, STOPS))
MAX: Final = number(MAX_TOKENS)
MODEL: Final = supported(NAME, "`auto`, a backend, a model, or any name: see the page of the gateway", required=True)
STREAM: Final = supported(FLAG)
STREAM_OPTIONS: Final = supported(record(include_usage=FLAG, include_obfuscation=FLAG), "`include_usage`")
METADATA: Final = supported(OBJECT, "the keys `hybrid_…`; others are ignored")
PROMPT_CACHE_KEY: Final = supported(TEXT, "names the session, where nothing else does")
HYBRID: Final = supported(
    {"type": "object", "properties": dict.fromkeys(NAMES, ANYTHING), "additionalProperties": False},
    "ours: see the page of the gateway",
)
SERVICE_TIER: Final = supported(
    words(*TIERS), "`flex` and `priority` where nodes have rights files; the answer names the tier that it had"
)
PRIORITY_OF_VLLM: Final = refused(
    0, about="vLLM's, where lower is earlier: use `service_tier`, or `hybrid: {priority: N}`, where higher is more"
)
NO_BACKEND: Final = "not offered to the model, with a warning: no backend has it"
CACHES: Final = {"prompt_cache_options": ignored(), "prompt_cache_retention": ignored()}
