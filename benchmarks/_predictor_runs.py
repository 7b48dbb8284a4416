"""Runs that the predictor's benchmark replays: real requests to the embedded edge model and to a node on loopback.

Each record is one answered request: what the decision knew of the backend, and how long the answer took.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.signals import FixedSensors

NODE_MODEL = Path(__file__).resolve().parents[1] / "examples" / "models" / "hybrid-demo-node"
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "meets",
    "a",
    "dog",
    "near",
    "one",
    "old",
    "river",
    "and",
    "talks",
    "of",
    "rain",
]
POLICY = "version: 1\nname: record\ntags: {}\nrules: []\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One answer. Times in ms; *active*, *queue* and *load* are what the decision knew."""

    prompt_tokens: int
    active: int
    queue: int
    load: float
    ttft_ms: float
    tpot_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """*callers* threads send *requests* requests in all, while *burners* processes keep the processors busy."""

    callers: int
    requests: int
    burners: int = 0
    longest_prompt: int = 300
    longest_answer: int = 40


PHASES = (
    Phase(callers=1, requests=120),
    Phase(callers=2, requests=120),
    Phase(callers=6, requests=240),
    Phase(callers=1, requests=100, burners=2),
    Phase(callers=12, requests=300),
    Phase(callers=1, requests=120, longest_prompt=60),
    Phase(callers=4, requests=200),
)
"""Idle, shared, queueing, a busy device, deep queues, short prompts, and queueing again."""
SMALLEST = (Phase(callers=2, requests=12, longest_prompt=20, longest_answer=4),)


def edge_run(phases: tuple[Phase, ...] = PHASES) -> list[Observation]:
    """Record requests to the embedded model."""
    return _record(EdgeBackend(EdgeConfig(load="eager", reuse_prefixes=False)), Location.EDGE, phases)


def node_run(phases: tuple[Phase, ...] = PHASES) -> list[Observation]:
    """Record requests to a node on loopback that runs the demonstration model in four slots."""
    from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
    from hybrid_llm.backends.wire import TLSFiles, issue, make_authority

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_authority(folder)
        issue(folder, "node", kind="node", hosts=["127.0.0.1"])
        issue(folder, "app", kind="client")
        with _node(folder) as port:
            config = GrpcConfig(target=f"127.0.0.1:{port}", tls=TLSFiles.from_dir(folder, "app"))
            return _record(GrpcBackend(config), Location.CLOUD, phases)


@contextlib.contextmanager
def _node(folder: Path) -> Iterator[int]:
    ready = folder / "ready"
    command = [sys.executable, "-m", "hybrid_llm.cli.main", "serve", "--model", str(NODE_MODEL), "--slots", "4"]
    command += ["--no-reuse-prefixes", "--listen", "127.0.0.1:0", "--tls", str(folder), "--ready-file", str(ready)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 90
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("the node did not start")
            time.sleep(0.05)
        yield int(ready.read_text().strip().rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(20)


def _record(backend: EdgeBackend, location: Location, phases: tuple[Phase, ...]) -> list[Observation]:
    seen: list[Observation] = []

    def take(event: RequestEvent) -> None:
        if event.error:
            return
        state = event.signals.backends[backend.name]
        seen.append(
            Observation(
                prompt_tokens=event.metadata.prompt_tokens,
                active=state.active,
                queue=state.queue,
                load=state.load,
                ttft_ms=event.timings.ttft_ms,
                tpot_ms=event.timings.tpot_ms or None,
            )
        )

    policy = parse_policy(POLICY, backends={backend.name: location})
    with HybridLLM([backend], policy, sensors=FixedSensors(), hooks=[take]) as llm:
        for index, phase in enumerate(phases):
            _play(llm, phase, index)
    return seen


def _play(llm: HybridLLM, phase: Phase, seed: int) -> None:
    left = threading.Semaphore(phase.requests)

    def caller(index: int) -> None:
        draw = random.Random(100 * seed + index)
        while left.acquire(blocking=False):
            prompt = " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, phase.longest_prompt)))
            with contextlib.suppress(HybridLLMError):
                llm.generate(prompt, max_tokens=draw.randint(1, phase.longest_answer))
            time.sleep(draw.choice((0.0, 0.0, 0.002, 0.02)))

    with _burning(phase.burners):
        _together([lambda index=index: caller(index) for index in range(phase.callers)])


def _together(work: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def _burning(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def save(path: Path, runs: dict[str, list[Observation]]) -> None:
    """Store *runs* for `load`."""
    path.write_text(json.dumps({name: [asdict(one) for one in run] for name, run in runs.items()}))


def load(path: Path) -> dict[str, list[Observation]]:
    """Read what `save` stored."""
    return {name: [Observation(**one) for one in run] for name, run in json.loads(path.read_text()).items()}
