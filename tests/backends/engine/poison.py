"""Requests that no engine can run, for the tests of each engine."""

from __future__ import annotations

import math
from typing import Any

from hybrid_llm.core.request import Sampling


def poison(vocabulary: int, window: int) -> dict[str, dict[str, Any]]:
    """Fields of `EngineRequest` that an engine of so many token ids and so long a context rejects, by what is bad."""
    return {
        "empty prompt": {"prompt_ids": ()},
        "id above the vocabulary": {"prompt_ids": (1, vocabulary)},
        "negative id": {"prompt_ids": (-1,)},
        "id that is no number": {"prompt_ids": ("1",)},
        "id that is a bool": {"prompt_ids": (True,)},
        "end id above the vocabulary": {"eos_ids": frozenset({vocabulary})},
        "no tokens wanted": {"max_tokens": 0},
        "negative max_tokens": {"max_tokens": -5},
        "absurd max_tokens": {"max_tokens": 10**18},
        "max_tokens that is a float": {"max_tokens": 1.5},
        "prompt larger than the window": {"prompt_ids": (9,) * (window + 1)},
        "NaN deadline": {"expires": math.nan},
        "NaN temperature": {"sampling": Sampling(temperature=math.nan)},
        "negative temperature": {"sampling": Sampling(temperature=-1.0)},
        "infinite temperature": {"sampling": Sampling(temperature=math.inf)},
        "top_p of 0": {"sampling": Sampling(top_p=0.0)},
        "NaN top_p": {"sampling": Sampling(top_p=math.nan)},
        "negative top_k": {"sampling": Sampling(top_k=-1)},
        "min_p above 1": {"sampling": Sampling(min_p=1.5)},
        "penalty of 0": {"sampling": Sampling(repetition_penalty=0.0)},
        "penalty above 2": {"sampling": Sampling(frequency_penalty=2.1)},
        "partial answer beyond the prompt": {"partial_tokens": 1000},
        "temperature that is a text": {"sampling": Sampling(temperature="hot")},  # type: ignore[arg-type]
        "seed that is a float": {"sampling": Sampling(temperature=1.0, seed=1.5)},  # type: ignore[arg-type]
        "negative logprobs": {"logprobs": -1},
        "adapter that is not loaded": {"adapter": "other"},
    }
