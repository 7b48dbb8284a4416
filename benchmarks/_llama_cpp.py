"""llama.cpp as a worker of `edge_decode`: a script for an environment that has `llama-cpp-python` and not hybrid-llm.

    pip install llama-cpp-python            in an environment of its own; compiles llama.cpp, some minutes
    python benchmarks/_llama_cpp.py MODEL.gguf CONTEXT THREADS

Reads a job per line, with the prompts as token ids, and writes the samples of `edge_decode` per line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def answer(model: Any, ids: list[int], decode: int) -> dict[str, float]:
    """Greedy, *decode* tokens; the text of each token is asked for, as the other engines do."""
    model.reset()
    cpu, begun = time.process_time(), time.perf_counter()
    first = last = begun
    count = 0
    for token in model.generate(ids, temp=0.0):
        model.detokenize([token])
        last = time.perf_counter()
        first = last if count == 0 else first
        count += 1
        if count == decode:
            break
    used = time.process_time() - cpu
    return {"prompt": len(ids), "completion": count, "first": first - begun, "rest": last - first, "cpu": used}


def main() -> None:
    from llama_cpp import Llama

    path, context, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = Llama(path, n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)
    for line in sys.stdin:
        job = json.loads(line)
        samples = [answer(model, ids, job["decode"]) for ids in job["ids"]]
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        print(json.dumps({"samples": samples, "rss": rss}), flush=True)


if __name__ == "__main__":
    main()
