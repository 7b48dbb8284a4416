"""Fields of OpenAI's Completions, the API before Chat."""

from __future__ import annotations

from typing import Final

from hybrid_llm.gateway.parameters import Table, ignored, refused, supported
from hybrid_llm.gateway.shapes import NAME, any_of, list_of
from hybrid_llm.gateway.tables import common

COMPLETIONS: Final = Table(
    path="/v1/completions",
    title="OpenAI Completions",
    parameters={
        "model": common.MODEL,
        "prompt": supported(
            any_of(NAME, list_of(NAME, minItems=1, maxItems=1)),
            "one text, which becomes the turn of a user, since models are for chat; no tokens",
            required=True,
        ),
        "stream": common.STREAM,
        "stream_options": common.STREAM_OPTIONS,
        "max_tokens": supported(common.MAX),
        "temperature": common.TEMPERATURE,
        "top_p": common.TOP_P,
        **common.SAMPLING_OF_VLLM,
        **common.PENALTIES,
        "seed": common.SEED,
        "stop": common.STOP,
        "metadata": common.METADATA,
        "prompt_cache_key": common.PROMPT_CACHE_KEY,
        "hybrid": common.HYBRID,
        "user": ignored(),
        "priority": common.PRIORITY_OF_VLLM,
        "n": refused(1),
        "best_of": refused(1),
        "echo": refused(False),
        "suffix": refused(""),
        "logprobs": refused(0),
        "logit_bias": refused({}, about="ids of tokens belong to one model, and the policy decides which answers"),
    },
)
