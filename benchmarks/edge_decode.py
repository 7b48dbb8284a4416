"""Edge decoding beside its peers: tokens per second, time to first token, processor time, memory, event loop lag.

    python -m benchmarks edge_decode            the embedded model, SmolLM2-135M-Instruct (real weights, a GGUF moved
                                                exactly) on a quiet and on a busy machine, and its shape with int4
    python -m benchmarks edge_decode --real     the real weights alone (6 minutes)
    python -m benchmarks edge_decode --long     the real weights with prompts of up to 8,000 tokens (5 minutes)
    python -m benchmarks edge_decode --big      Qwen2.5-0.5B's shape as well (6 GB of memory, some minutes)
    python -m benchmarks edge_decode --quick    fewer rounds, no 135M

Every engine runs in its own process. The rounds are interleaved, so that a busy machine slows all alike; the table
shows medians. *Busy* is beside one process of ours per processor that does nothing but compute. Needs the `prepare`
extra, and for the real weights the package index. llama.cpp takes part with the real weights where
`HYBRID_BENCH_LLAMA_CPP` names the Python of an environment with the package llama-cpp-python. Trust the ratios, not
the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

from benchmarks._edge_engines import ENGINES, GENAI, Job, cleared, genai
from benchmarks._run import ROOT, announce, parser
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.backends.edge.folder import read_manifest
from hybrid_llm.backends.models import Floor, convert
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.text import ChatTokenizer
from tests.shapes import Shape, random_model
from tests.weights import Unreachable, smollm2_gguf

PROMPTS = ("Is this review positive? 'A warm, funny film.'", "What is 312 + 466?", "Write the date 3 May 2021 as ISO.")
RANDOM_WEIGHTS = Floor(top1_agreement=0.0, logit_correlation=0.4)


LLAMA_CPP = "llama.cpp"
LLAMA_CPP_VARIABLE = "HYBRID_BENCH_LLAMA_CPP"
LONG = (500, 2000, 4000, 8000)
"""Tokens of the long prompts, about."""


def serve(engine: str, folder: Path, source: Path) -> None:
    """The worker's side: load, then answer one job per line."""
    answer = ENGINES[engine](folder, source)
    for line in sys.stdin:
        job = json.loads(line)
        samples = [asdict(answer(text, job["decode"])) for text in job["texts"]]
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        print(json.dumps({"samples": samples, "rss": rss}), flush=True)


def command(engine: str, folder: Path, source: Path | None, job: Job) -> list[str]:
    """The command of a worker."""
    if not engine.startswith(LLAMA_CPP):
        return [sys.executable, "-m", "benchmarks.edge_decode", "--worker", engine, str(folder), str(source)]
    threads = 1 if engine.endswith("1 thread") else os.cpu_count() or 1
    context = max(map(len, job.ids)) + job.decode
    script = ROOT / "benchmarks" / "_llama_cpp.py"
    return [os.environ[LLAMA_CPP_VARIABLE], str(script), str(smollm2_gguf()), str(context), str(threads)]


@contextmanager
def worker(arguments: list[str]) -> Iterator[Callable[[Job], dict[str, Any]]]:
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(job: Job) -> dict[str, Any]:
        print(json.dumps(asdict(job)), file=process.stdin, flush=True)
        reply: dict[str, Any] = json.loads(process.stdout.readline())
        return reply

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()


def measure(
    engines: list[str], folder: Path, source: Path | None, job: Job, rounds: int, portable: Path | None
) -> dict[str, list[dict[str, Any]]]:
    """The replies of all *engines* in *rounds* that are interleaved, after one that is not counted."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    with ExitStack() as stack:
        folders = {GENAI: portable or folder}
        ask = {
            name: stack.enter_context(worker(command(name, folders.get(name, folder), source, job))) for name in engines
        }
        for name in engines:
            ask[name](job)
        for number in range(rounds):
            for name in engines if number % 2 else reversed(engines):
                results[name].append(ask[name](job))
    return results


def compare(title: str, folder: Path, source: Path | None, job: Job, rounds: int, portable: Path | None = None) -> None:
    """*portable* is the same model as onnxruntime-genai runs it, where that is not *folder* itself."""
    engines = [name for name in ENGINES if source is not None or name != "transformers fp32"]
    if find_spec("onnxruntime_genai") is None:
        engines.remove(GENAI)
        print("onnxruntime-genai is not installed and left out: pip install hybrid-llm[prepare]")
    if job.ids and os.environ.get(LLAMA_CPP_VARIABLE):
        engines += [f"{LLAMA_CPP}, 1 thread", LLAMA_CPP]
    results = measure(engines, folder, source, job, rounds, portable)
    print(f"\n{title}: {rounds} rounds, medians; ratios are ours / its")
    print(
        f"{'engine':22}{'prefill tok/s':>14}{'decode tok/s':>14}{'TTFT ms':>9}{'CPU s':>7}{'RSS MB':>8}"
        f"{'decode':>9}{'TTFT':>7}{'CPU':>7}{'RSS':>7}"
    )
    ours = figures(results["hybrid-llm"])
    for name, replies in results.items():
        its = figures(replies)
        ratios = [ours[each] / its[each] for each in ("decode", "first", "cpu", "rss")]
        print(
            f"{name:22}{its['prefill']:14.0f}{its['decode']:14.1f}{1e3 * its['first']:9.0f}{its['cpu']:7.2f}"
            f"{its['rss']:8.0f}{ratios[0]:9.2f}{ratios[1]:7.2f}{ratios[2]:7.2f}{ratios[3]:7.2f}",
            flush=True,
        )


def figures(replies: list[dict[str, Any]]) -> dict[str, float]:
    """Medians of an engine's rounds: tokens per second, seconds, MB."""
    return {
        "prefill": _median(replies, _prefill_rate),
        "decode": _median(replies, _decode_rate),
        "first": _median(replies, _first),
        "cpu": _median(replies, _cpu),
        "rss": max(float(reply["rss"]) for reply in replies),
    }


def compare_long(folder: Path, portable: Path, lengths: Iterable[int]) -> None:
    """Processor seconds per 1,000 tokens of prompt, beside what the products alone would take as plain ones."""
    print(f"\n{'prompt tokens':>14}{'engine':>22}{'TTFT s':>9}{'CPU s / 1,000':>15}{'floor':>8}{'RSS MB':>8}")
    for length in lengths:
        job = encoded(folder, Job(("Tell me about the rivers of Europe. " * (length // 8),), 1))
        engines = ["hybrid-llm", *([GENAI] if find_spec("onnxruntime_genai") else [])]
        engines += [LLAMA_CPP] if os.environ.get(LLAMA_CPP_VARIABLE) else []
        floor = plain_products(folder, len(job.ids[0]))
        for name, (reply,) in measure(engines, folder, None, job, 1, portable).items():
            (sample,) = reply["samples"]
            cpu = 1e3 * sample["cpu"] / sample["prompt"]
            print(
                f"{sample['prompt']:14}{name:>22}{sample['first']:9.2f}{cpu:15.2f}{floor:8.2f}{reply['rss']:8.0f}",
                flush=True,
            )


def plain_products(folder: Path, tokens: int) -> float:
    """Seconds of a processor per 1,000 tokens, were all products of weights and attention NumPy's in float32."""
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    manifest = read_manifest(folder)
    weights = manifest.parameters - manifest.vocab_size * decoder["hidden_size"]
    attention = decoder["num_hidden_layers"] * decoder["num_attention_heads"] * decoder["head_size"] * tokens
    left, right = np.ones((512, 1536), np.float32), np.ones((1536, 1536), np.float32)
    begun = time.process_time()
    for _ in range(20):
        left @ right
    rate = 20 * left.size * right.shape[1] / (time.process_time() - begun)
    return 1000 * (weights + attention) / rate


def encoded(folder: Path, job: Job) -> Job:
    """*job* with its prompts as token ids too."""
    chat = ChatTokenizer.load(folder)
    return replace(job, ids=tuple(tuple(chat.encode(cleared(text, job.decode).request)) for text in job.texts))


def _median(replies: list[dict[str, Any]], figure: Callable[[list[dict[str, Any]]], float]) -> float:
    return statistics.median(figure(reply["samples"]) for reply in replies)


def _prefill_rate(samples: list[dict[str, Any]]) -> float:
    return float(sum(s["prompt"] for s in samples) / sum(s["first"] for s in samples))


def _decode_rate(samples: list[dict[str, Any]]) -> float:
    return float(sum(s["completion"] - 1 for s in samples) / sum(s["rest"] for s in samples))


def _first(samples: list[dict[str, Any]]) -> float:
    return float(statistics.mean(s["first"] for s in samples))


def _cpu(samples: list[dict[str, Any]]) -> float:
    return float(sum(s["cpu"] for s in samples))


@contextmanager
def busy() -> Iterator[None]:
    """A process per processor that computes and does nothing else."""
    burn = [sys.executable, "-c", "while True: pass"]
    burning = [subprocess.Popen(burn) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def real_weights(cache: Path, *, portable: bool = False) -> Path:
    """The model folder of SmolLM2-135M-Instruct, its GGUF moved exactly; *portable*: as onnxruntime-genai runs it."""
    folder = cache / ("smollm2-135m-portable" if portable else "smollm2-135m-rows")
    if not folder.exists():
        import_gguf(smollm2_gguf(), folder, name="smollm2-135m", portable=portable)
    return folder


def compare_real(cache: Path, rounds: int, *, long: bool) -> None:
    try:
        folder, portable = real_weights(cache), real_weights(cache, portable=True)
    except Unreachable as error:
        print(f"real weights are left out: {error}")
        return None
    if long:
        return compare_long(folder, portable, LONG)
    job = encoded(folder, Job(("Tell me about the rivers of Europe. " * 12,), 64))
    compare("SmolLM2-135M-Instruct, the GGUF moved exactly, prompt 128, decode 64", folder, None, job, rounds, portable)
    with busy():
        compare("the same on a busy machine", folder, None, job, rounds, portable)
    return None


async def measure_lag(work: Callable[[], Any], pause: float = 0.001) -> list[float]:
    """Milliseconds by which a timer of *pause* seconds comes late while *work* goes on."""
    lags, task = [], asyncio.ensure_future(work())
    while not task.done():
        begun = time.perf_counter()
        await asyncio.sleep(pause)
        lags.append(1e3 * (time.perf_counter() - begun - pause))
    await task
    return lags


def lag(engine: str, folder: Path) -> None:
    """The worker's side of the lag table: one line of figures."""
    text, decode = "ab " * 254, 32
    if engine == "hybrid-llm":
        backend = EdgeBackend(EdgeConfig(model=folder, load="eager", reuse_prefixes=False))

        async def work() -> None:
            async for _ in backend.astream(cleared(text, decode)):
                pass

    else:
        answer = genai(folder, folder)

        async def work() -> None:
            await asyncio.to_thread(answer, text, decode)

    asyncio.run(measure_lag(work))
    lags = sorted(lag for _ in range(5) for lag in asyncio.run(measure_lag(work)))
    print(json.dumps({"p50": lags[len(lags) // 2], "p99": lags[int(len(lags) * 0.99)], "max": lags[-1]}))


def compare_lag(title: str, folder: Path) -> None:
    print(f"\n{title}: lateness of a 1 ms timer in the event loop while a prompt of about 512 tokens is answered, ms")
    print(f"{'engine':32}{'p50':>8}{'p99':>8}{'max':>8}")
    for engine, label in (("hybrid-llm", "hybrid-llm astream"), ("onnxruntime-genai", "onnxruntime-genai in a thread")):
        command = [sys.executable, "-m", "benchmarks.edge_decode", "--lag", engine, str(folder)]
        figures = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()[-1]
        )
        print(f"{label:32}{figures['p50']:8.2f}{figures['p99']:8.2f}{figures['max']:8.1f}")


def prepared(shape: Shape, cache: Path) -> tuple[Path, Path]:
    source, folder = cache / shape, cache / f"{shape}-int4"
    if not folder.exists():
        print(f"making random weights in the shape of {shape} ...", flush=True)
        random_model(shape, source)
        convert(source, folder, block_size=128, parity_steps=2, parity_floor=RANDOM_WEIGHTS)
    return source, folder


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--big", action="store_true", help="Qwen2.5-0.5B's shape as well")
    made.add_argument("--real", action="store_true", help="the real weights alone")
    made.add_argument("--long", action="store_true", help="the real weights with long prompts alone")
    made.add_argument("--quick", action="store_true", help="fewer rounds, the embedded model only")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hybrid-llm-benchmarks")
    made.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    made.add_argument("--lag", nargs=2, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.worker:
        return serve(options.worker[0], *map(Path, options.worker[1:]))
    if options.lag:
        return lag(options.lag[0], Path(options.lag[1]))
    announce(options)
    if options.smoke:
        return compare("embedded model", embedded_model(), None, Job(PROMPTS[:1], 4), 1)
    rounds = 3 if options.quick else options.rounds
    if not (options.real or options.long):
        compare("embedded model", embedded_model(), None, Job(PROMPTS, 64), rounds)
    compare_real(options.cache, rounds, long=options.long)
    if options.real or options.long:
        return None
    shapes: list[Shape] = [] if options.quick else ["smollm2-135m"]
    for shape in [*shapes, *(["qwen2.5-0.5b"] if options.big else [])]:
        source, folder = prepared(shape, options.cache)
        compare(f"{shape} shape, int4, prompt 128, decode 128", folder, source, Job(("ab " * 62,), 128), rounds)
        compare_lag(f"{shape} shape", folder)
    return None


if __name__ == "__main__":
    main()
