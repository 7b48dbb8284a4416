"""The first request of each kind, before there are any: vLLM compiles some of its code when it is first used.

That takes seconds, in which its engine makes no step, and would look hung. Runs in vLLM's Python.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.node.engine import EngineInfo, EngineRequest
from hybrid_llm.backends.node.vllm.answers import grammar_of, sampling_params
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Sampling

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_DRAW: Final = Sampling(temperature=1.0, top_p=0.9, top_k=5, min_p=0.01, repetition_penalty=1.1, seed=1)


async def warm_up(llm: AsyncLLM, info: EngineInfo) -> None:
    """Answer requests of our own: greedy and drawn, scored, under a grammar; alone, and all at once.

    Raises:
        ConfigError: vLLM has loaded the model, and does not run it.
    """
    kinds: list[dict[str, Any]] = [{}, {"logprobs": 1}, {"sampling": _DRAW}]
    if info.output_schema:
        kinds.append({"output_schema": '{"type": "boolean"}'})
    requests = [
        EngineRequest(request_id=f"warm-up {number}", prompt_ids=(0,) * 8, max_tokens=2, **kind)
        for number, kind in enumerate(kinds)
    ]
    for request in requests:
        await _answer(llm, request)
    await asyncio.gather(*(_answer(llm, request) for request in requests))
    if llm.errored:
        raise ConfigError(f"vLLM has loaded {info.model}, and failed on its first tokens: what it logged says why")


async def _answer(llm: AsyncLLM, request: EngineRequest) -> None:
    from vllm.exceptions import VLLMError
    from vllm.inputs import tokens_input

    prompt = tokens_input(list(request.prompt_ids), cache_salt="warm-up")
    try:
        params = sampling_params(request, grammar_of(request), None)
        async with aclosing(llm.generate(prompt, params, request.request_id)) as outputs:
            async for _ in outputs:
                pass
    except VLLMError:  # of one kind of request alone, unless vLLM has died
        return
