"""vLLM in its own environment: `node_throughput --vllm PYTHON` runs this by that Python, and imports nothing of it.

Reads one JSON object a line: first the settings, then prompts. Writes one a line: when each token came, which it was,
and the seconds of processor time that the process took meanwhile, all its threads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process, as the others have: its steps are ours
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def load(settings: dict[str, Any]) -> Any:
    """The engine; `eager` in the settings decides whether it compiles the model, which takes a C++ compiler."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    fixed = {"skip_tokenizer_init": True, "enable_prefix_caching": False, "disable_log_stats": True}
    return LLMEngine.from_engine_args(
        EngineArgs(**settings, **fixed, generation_config="vllm", distributed_executor_backend="uni")
    )


def answer(engine: Any, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """Answer *prompts* greedily, with *tokens* each, all of them sent at once."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = SamplingParams(
        temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
    )
    arrivals: dict[str, list[float]] = {str(index): [] for index in range(len(prompts))}
    answers: dict[str, list[int]] = {name: [] for name in arrivals}
    before, start = time.process_time(), time.perf_counter()
    for name, prompt in zip(arrivals, prompts, strict=True):
        engine.add_request(name, {"prompt_token_ids": prompt}, sampling)
    while engine.has_unfinished_requests():
        for output in engine.step():
            new = list(output.outputs[0].token_ids)
            answers[output.request_id] += new
            arrivals[output.request_id] += [time.perf_counter() - start] * len(new)
    cpu_s = time.process_time() - before
    return {"arrivals": list(arrivals.values()), "answers": list(answers.values()), "cpu_s": cpu_s}


def main() -> None:
    """Serve the lines of standard input; what vLLM prints goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = load(json.loads(sys.stdin.readline()))
    print(json.dumps({}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, **json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
