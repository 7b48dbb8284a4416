"""Edge decoding beside its peers: tokens per second, time to first token, processor time, memory, event loop lag.

    python -m benchmarks edge_decode            the embedded model, SmolLM2-135M-Instruct (real weights, a GGUF moved
                                                exactly) on a quiet and on a busy machine, and its shape with int4
    python -m benchmarks edge_decode --real     the real weights alone
    python -m benchmarks edge_decode --big      Qwen2.5-0.5B's shape as well (6 GB of memory, some minutes)
    python -m benchmarks edge_decode --quick    fewer rounds, no 135M

Every engine runs in its own process. The rounds are interleaved, so that a busy machine slows all alike; the table
shows medians. *Busy* is beside one process of ours per processor that does nothing but compute. Needs the `prepare`
extra, and for the real weights the package index. Trust the ratios, not the figures.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from benchmarks._run import ROOT, announce, parser
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.backends.models import Floor, convert
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from tests.shapes import Shape, random_model
from tests.weights import Unreachable, smollm2_gguf

PROMPTS = ("Is this review positive? 'A warm, funny film.'", "What is 312 + 466?", "Write the date 3 May 2021 as ISO.")
RANDOM_WEIGHTS = Floor(top1_agreement=0.0, logit_correlation=0.4)


@dataclass(frozen=True)
class Sample:
    """One answer: tokens read and written, seconds to the first token and from there to the last, and of processors."""

    prompt: int
    completion: int
    first: float
    rest: float
    cpu: float


@dataclass(frozen=True)
class Job:
    """The prompts for every engine: *texts* with *decode* tokens of answer each."""

    texts: tuple[str, ...]
    decode: int


Answer = Callable[[str, int], Sample]


def cleared(text: str, max_tokens: int) -> Cleared:
    request = Request(messages=(Message(role="user", content=text),), max_tokens=max_tokens, deadline=600.0)
    return PrivacyGuard().clear(Assessment(request=request, allowed=frozenset({Location.EDGE})), Location.EDGE)


def ours(folder: Path, _source: Path, *, spin: bool = True) -> Answer:
    backend = EdgeBackend(EdgeConfig(model=folder, load="eager", spin=spin, reuse_prefixes=False))

    def answer(text: str, decode: int) -> Sample:
        begun, times, usage, cpu = time.perf_counter(), [], None, time.process_time()
        for chunk in backend.stream(cleared(text, decode)):
            times.append(time.perf_counter())
            usage = chunk.usage
        assert usage is not None
        cpu = time.process_time() - cpu
        return Sample(usage.prompt_tokens, usage.completion_tokens, times[0] - begun, times[-1] - times[0], cpu)

    return answer


def genai(folder: Path, _source: Path) -> Answer:
    import onnxruntime_genai as og

    from hybrid_llm.backends.text import ChatTokenizer

    model, chat = og.Model(str(folder)), ChatTokenizer.load(folder)

    def answer(text: str, decode: int) -> Sample:
        begun, cpu = time.perf_counter(), time.process_time()
        first = begun
        request = cleared(text, decode).request
        ids = chat.encode(request)
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + decode, do_sample=False)
        generator, stream, count = og.Generator(model, params), chat.text_stream(request), 0
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
            stream.push(int(generator.get_next_tokens()[0]))
            count += 1
            first = time.perf_counter() if count == 1 else first
        cpu = time.process_time() - cpu
        return Sample(len(ids), count, first - begun, time.perf_counter() - first, cpu)

    return answer


def transformers(folder: Path, source: Path) -> Answer:
    import torch
    from transformers import AutoModelForCausalLM

    from hybrid_llm.backends.text import ChatTokenizer

    model = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32).eval()
    chat = ChatTokenizer.load(folder)

    class Clock:
        """A streamer that notes when tokens come; the first `put` is the prompt."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, _value: Any) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def answer(text: str, decode: int) -> Sample:
        begun, cpu, clock = time.perf_counter(), time.process_time(), Clock()
        ids = torch.tensor([chat.encode(cleared(text, decode).request)])
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=decode, do_sample=False, streamer=clock)
        times = clock.times[1:]
        cpu = time.process_time() - cpu
        return Sample(ids.shape[1], len(times), times[0] - begun, times[-1] - times[0], cpu)

    return answer


ENGINES: dict[str, Callable[[Path, Path], Answer]] = {
    "hybrid-llm": ours,
    "hybrid-llm, no spin": partial(ours, spin=False),
    "onnxruntime-genai": genai,
    "transformers fp32": transformers,
}


def serve(engine: str, folder: Path, source: Path) -> None:
    """The worker's side: load, then answer one job per line."""
    answer = ENGINES[engine](folder, source)
    for line in sys.stdin:
        job = json.loads(line)
        samples = [asdict(answer(text, job["decode"])) for text in job["texts"]]
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        print(json.dumps({"samples": samples, "rss": rss}), flush=True)


@contextmanager
def worker(*arguments: str) -> Iterator[Callable[[Job], dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.edge_decode", "--worker", *arguments],
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


def compare(title: str, folder: Path, source: Path | None, job: Job, rounds: int, portable: Path | None = None) -> None:
    """*portable* is the same model as onnxruntime-genai runs it, where that is not *folder* itself."""
    engines = [name for name in ENGINES if source is not None or name != "transformers fp32"]
    if find_spec("onnxruntime_genai") is None:
        engines.remove("onnxruntime-genai")
        print("onnxruntime-genai is not installed and left out: pip install hybrid-llm[prepare]")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    with ExitStack() as stack:
        folders = {"onnxruntime-genai": portable or folder}
        ask = {name: stack.enter_context(worker(name, str(folders.get(name, folder)), str(source))) for name in engines}
        for name in engines:
            ask[name](job)
        for number in range(rounds):
            for name in engines if number % 2 else reversed(engines):
                results[name].append(ask[name](job))
    print(f"\n{title}: {rounds} rounds, medians")
    print(
        f"{'engine':20}{'prefill tok/s':>15}{'decode tok/s':>14}{'TTFT ms':>10}{'CPU s':>8}{'RSS MB':>9}"
        f"{'decode, ours / it':>20}"
    )
    reference = _median(results["hybrid-llm"], _decode_rate)
    for name, replies in results.items():
        decode = _median(replies, _decode_rate)
        print(
            f"{name:20}{_median(replies, _prefill_rate):15.0f}{decode:14.1f}{1e3 * _median(replies, _first):10.1f}"
            f"{_median(replies, _cpu):8.2f}{max(reply['rss'] for reply in replies):9.0f}{reference / decode:20.2f}"
        )


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


def compare_real(cache: Path, rounds: int) -> None:
    try:
        folder, portable = real_weights(cache), real_weights(cache, portable=True)
    except Unreachable as error:
        print(f"real weights are left out: {error}")
        return
    job = Job(("Tell me about the rivers of Europe. " * 12,), 64)
    compare("SmolLM2-135M-Instruct, the GGUF moved exactly, prompt 128, decode 64", folder, None, job, rounds, portable)
    with busy():
        compare("the same on a busy machine", folder, None, job, rounds, portable)


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
    if not options.real:
        compare("embedded model", embedded_model(), None, Job(PROMPTS, 64), rounds)
    compare_real(options.cache, rounds)
    if options.real:
        return None
    shapes: list[Shape] = [] if options.quick else ["smollm2-135m"]
    for shape in [*shapes, *(["qwen2.5-0.5b"] if options.big else [])]:
        source, folder = prepared(shape, options.cache)
        compare(f"{shape} shape, int4, prompt 128, decode 128", folder, source, Job(("ab " * 62,), 128), rounds)
        compare_lag(f"{shape} shape", folder)
    return None


if __name__ == "__main__":
    main()
