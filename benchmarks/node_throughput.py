"""Tokens per second of the node's engine beside transformers', interleaved in one process; medians.

python -m benchmarks node_throughput           # SmolLM2-135M shape, random weights, bf16
python -m benchmarks node_throughput --model examples/models/hybrid-demo-node --streams 1 4 16 32
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation import BaseStreamer

from benchmarks._run import ROOT, parsed, parser
from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
from hybrid_llm.backends.node.engines.load import load_engine

Arrivals = list[list[float]]
"""For each stream the instants at which its tokens came, seconds after all prompts were sent."""
Contender = Callable[[list[list[int]], int], Arrivals]
NO_END = -1


@dataclass(frozen=True)
class Result:
    """One run of one contender."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    """Per second of processor time, all threads of the process: what a busy neighbour distorts least."""
    ttft_ms: float
    gap_p99_ms: float


class Stamps(BaseStreamer):
    """Notes when `generate` has new tokens; the first call is the prompt."""

    def __init__(self) -> None:
        self.instants: list[float] = []

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 BaseStreamer's signature
        self.instants.append(time.perf_counter())

    def end(self) -> None:
        pass


def packed(model: Path, slots: int, context: int) -> Contender:
    config = EngineConfig(
        model=model,
        engine="packed",
        threads=1,
        max_slots=slots,
        kv_tokens=slots * context,
        reuse_prefixes=False,  # the rounds repeat their prompts
    )
    engine = load_engine(config)

    def run(prompts: list[list[int]], tokens: int) -> Arrivals:
        arrivals: dict[str, list[float]] = {str(index): [] for index in range(len(prompts))}
        start = time.perf_counter()
        for request_id, prompt in zip(arrivals, prompts, strict=True):
            engine.submit(EngineRequest(request_id=request_id, prompt_ids=tuple(prompt), max_tokens=tokens))
        while not engine.idle:
            for output in engine.step():
                arrivals[output.request_id] += [time.perf_counter() - start] * len(output.token_ids)
        return list(arrivals.values())

    return run


def generate_batch(model: Any, prompts: list[list[int]], tokens: int) -> list[float]:
    stamps = Stamps()
    ids = torch.tensor(prompts)
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=stamps)
    return stamps.instants[1:]


def one_by_one(model: Any) -> Contender:
    def run(prompts: list[list[int]], tokens: int) -> Arrivals:
        start = time.perf_counter()
        return [[instant - start for instant in generate_batch(model, [prompt], tokens)] for prompt in prompts]

    return run


def static_batch(model: Any) -> Contender:
    def run(prompts: list[list[int]], tokens: int) -> Arrivals:
        start = time.perf_counter()
        instants = [instant - start for instant in generate_batch(model, prompts, tokens)]
        return [instants for _ in prompts]

    return run


@contextlib.contextmanager
def continuous_batching(model: Any, slots: int, context: int) -> Iterator[Contender]:
    page = 32
    config = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=slots * (context // page + 1),
        max_batch_tokens=256 + slots,
        allow_block_sharing=False,
        use_cuda_graph=False,
    )
    sampling = GenerationConfig(do_sample=False, eos_token_id=NO_END, max_new_tokens=context)
    manager = model.init_continuous_batching(generation_config=sampling, continuous_batching_config=config)
    manager.start()

    def run(prompts: list[list[int]], tokens: int) -> Arrivals:
        arrivals: dict[str, list[float]] = {}
        start = time.perf_counter()
        for prompt in prompts:
            request_id = manager.add_request(prompt, max_new_tokens=tokens, streaming=True)
            arrivals[request_id] = []
        finished = 0
        while finished < len(prompts):
            result = manager.get_result(timeout=60)
            if result is None or result.error:
                raise RuntimeError("transformers' continuous batching gave up")
            new = len(result.generated_tokens) - len(arrivals[result.request_id])
            arrivals[result.request_id] += [time.perf_counter() - start] * new
            finished += result.is_finished()
        return list(arrivals.values())

    try:
        yield run
    finally:
        manager.stop(block=True)


def measure(contender: Contender, prompts: list[list[int]], tokens: int) -> Result:
    before = time.process_time()
    arrivals = contender(prompts, tokens)
    cpu = time.process_time() - before
    assert all(len(instants) == tokens for instants in arrivals), [len(instants) for instants in arrivals]
    gaps = sorted(b - a for instants in arrivals for a, b in itertools.pairwise(instants))
    return Result(
        tokens_per_s=len(prompts) * tokens / max(instants[-1] for instants in arrivals),
        tokens_per_cpu_s=len(prompts) * tokens / cpu,
        ttft_ms=1e3 * statistics.median(instants[0] for instants in arrivals),
        gap_p99_ms=1e3 * gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))],
    )


def median(results: list[Result]) -> Result:
    def middle(name: str) -> float:
        return statistics.median(getattr(result, name) for result in results)

    return Result(middle("tokens_per_s"), middle("tokens_per_cpu_s"), middle("ttft_ms"), middle("gap_p99_ms"))


def compare(contenders: dict[str, Contender], streams: int, options: argparse.Namespace, vocab: int) -> None:
    random = torch.Generator().manual_seed(streams)
    prompts = torch.randint(vocab, (streams, options.prompt), generator=random).tolist()
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for round_ in range(options.rounds + 1):
        for name, contender in contenders.items():
            if streams > 4 and name.startswith("generate"):
                continue
            result = measure(contender, prompts, options.decode)
            if round_ > 0:
                results[name].append(result)
    for name, runs in results.items():
        if runs:
            best = median(runs)
            print(row(streams, name, best), flush=True)


def row(streams: int, name: str, result: Result) -> str:
    rates = f"{result.tokens_per_s:>10.1f} {result.tokens_per_cpu_s:>10.1f}"
    return f"{streams:>8} {name:<34} {rates} {result.ttft_ms:>9.0f} {result.gap_p99_ms:>11.1f}"


def random_model(folder: Path) -> Path:
    """The shape of SmolLM2-135M with random weights."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", type=Path, help="a model folder; default: SmolLM2-135M's shape with random weights")
    made.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    made.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    made.add_argument("--decode", type=int, default=64, help="tokens of each answer")
    made.add_argument("--rounds", type=int, default=3)
    options = parsed(made)
    if options.smoke:
        options.model, options.streams = ROOT / "examples" / "models" / "hybrid-demo-node", [1, 2]
        options.prompt, options.decode, options.rounds = 8, 4, 1
    with tempfile.TemporaryDirectory() as scratch:
        compare_all(options.model or random_model(Path(scratch)), options)


def compare_all(folder: Path, options: argparse.Namespace) -> None:
    slots, context = max(options.streams), options.prompt + options.decode + 1
    ours = packed(folder, slots, max(context, 64))
    plain, batching = (AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval() for _ in range(2))
    plain.generation_config.eos_token_id = None  # else generate takes it from here, and answers have other lengths
    print(f"{folder.name}, {plain.dtype}, one thread, prompt {options.prompt}, decode {options.decode}")
    print(f"{'streams':>8} {'engine':<34} {'tokens/s':>10} {'per cpu s':>10} {'TTFT ms':>9} {'gap p99 ms':>11}")
    with continuous_batching(batching, slots, context) as theirs:
        contenders = {
            "ours, packed": ours,
            "transformers continuous batching": theirs,
            "static batch": static_batch(plain),
            "generate, one by one": one_by_one(plain),
        }
        for streams in options.streams:
            compare(contenders, streams, options, plain.config.vocab_size)


if __name__ == "__main__":
    main()
