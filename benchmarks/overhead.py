"""What the router adds to calling a backend directly: per `generate` and per streamed token, sync and async.

    python -m benchmarks overhead [--json FILE]

The backend answers from memory, so that only the router's cost remains. LiteLLM's Router is measured in the same way
over its own mock of a provider, in its own environment (`.venv-litellm`, made by `make bench`). CPU time, interleaved,
medians.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass

from benchmarks._run import LITELLM, parsed, parser, with_json, write
from hybrid_llm.core.clearance import Cleared, _make_cleared
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Message, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from hybrid_llm.router.signals import FixedSensors

PROMPT = "Summarise the meeting of Tuesday in two sentences, and name the three people who spoke most."


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: calls in a round, tokens of a streamed answer, rounds."""

    calls: int = 300
    tokens: int = 2000
    rounds: int = 9


class Memory:
    """A backend that answers *tokens* tokens from memory."""

    def __init__(self, name: str, location: Location, tokens: int) -> None:
        self.name, self.location = name, location
        self.capabilities = Capabilities(model="memory", context_window=8192)
        self._state = BackendState(name=name, location=location, context_window=8192)
        self._chunks = [Chunk(text="word ")] * (tokens - 1) + [Chunk(text="end", finish_reason=FinishReason.STOP)]

    def state(self) -> BackendState:
        return self._state

    def count_tokens(self, request: Request) -> int:
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:  # noqa: ARG002  # the Protocol's signature
        yield from self._chunks

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:  # noqa: ARG002  # as above
        for chunk in self._chunks:
            yield chunk

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def client(tokens: int) -> tuple[HybridLLM, Memory, Cleared]:
    edge, cloud = Memory("edge", Location.EDGE, tokens), Memory("cloud", Location.CLOUD, tokens)
    policy = builtin_policy("balanced", backends={"edge": Location.EDGE, "cloud": Location.CLOUD})
    request = Request(messages=(Message(role="user", content=PROMPT),))
    return (
        HybridLLM([edge, cloud], policy, sensors=FixedSensors()),
        edge,
        _make_cleared(request, Location.EDGE),
    )


def cpu_us(work: Callable[[], None], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


def median_difference(routed: Callable[[], None], direct: Callable[[], None], times: int, rounds: int) -> float:
    """Microseconds of CPU that *routed* takes more than *direct*, in turns."""
    return statistics.median(cpu_us(routed, times) - cpu_us(direct, times) for _ in range(rounds))


def measure(size: Size) -> dict[str, float]:
    one, edge, cleared = client(1)
    many, edges, cleareds = client(size.tokens)
    streams, rounds = 3, size.rounds

    def collect(backend: Memory, what: Cleared) -> Callable[[], None]:
        return lambda: _drain(backend.stream(what))

    results = {
        "generate_us": median_difference(lambda: one.generate(PROMPT), collect(edge, cleared), size.calls, rounds),
        "decide_us": median_difference(lambda: one.decide(PROMPT), lambda: None, size.calls, rounds),
        "metrics_us": _metrics_us(size),
        "token_us": median_difference(lambda: _drain(many.stream(PROMPT)), collect(edges, cleareds), streams, rounds)
        / size.tokens,
    }
    results |= asyncio.run(_measure_async(size, client(1), client(size.tokens)))
    return results


def _metrics_us(size: Size) -> float:
    """CPU of the Prometheus hook per request, microseconds."""
    edge = Memory("edge", Location.EDGE, 8)
    policy = builtin_policy("balanced", backends={"edge": Location.EDGE})
    events: list[RequestEvent] = []
    with HybridLLM([edge], policy, sensors=FixedSensors(), hooks=[events.append]) as llm:
        llm.generate(PROMPT)
    metrics = PrometheusMetrics.alone()
    return median_difference(lambda: metrics(events[0]), lambda: None, 10 * size.calls, size.rounds)


def _drain(items: object) -> None:
    for _ in items:  # type: ignore[attr-defined]
        pass


async def _adrain(items: object) -> None:
    async for _ in items:  # type: ignore[attr-defined]
        pass


Routed = tuple[HybridLLM, Memory, Cleared]


async def _measure_async(size: Size, short: Routed, long: Routed) -> dict[str, float]:
    (one, edge, cleared), (many, edges, cleareds) = short, long
    generates, tokens = [], []
    for _ in range(size.rounds):
        routed = await _cpu(lambda: one.agenerate(PROMPT), size.calls)
        generates.append(routed - await _cpu(lambda: _adrain(edge.astream(cleared)), size.calls))
        streamed = await _cpu(lambda: _adrain(many.astream(PROMPT)), 3)
        tokens.append((streamed - await _cpu(lambda: _adrain(edges.astream(cleareds)), 3)) / size.tokens)
    return {"agenerate_us": statistics.median(generates), "async_token_us": statistics.median(tokens)}


async def _cpu(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        await work()  # type: ignore[misc]
    return (time.process_time() - began) / times * 1e6


PEER = """
import asyncio, json, os, statistics, time
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
from litellm import Router
litellm.suppress_debug_info = True
litellm.telemetry = False
entry = lambda n: {"model_name": "m", "litellm_params": dict(model=f"openai/{n}", api_key="x", mock_response="end")}
router = Router(model_list=[entry("a"), entry("b")], num_retries=2)
messages = [{"role": "user", "content": PROMPT}]
direct = dict(model="openai/a", api_key="x", mock_response="end", messages=messages)
def cpu(f, n=CALLS):
    b = time.process_time()
    for _ in range(n): f()
    return (time.process_time() - b) / n * 1e6
async def acpu(f, n=CALLS):
    b = time.process_time()
    for _ in range(n): await f()
    return (time.process_time() - b) / n * 1e6
async def run_async():
    return [await acpu(lambda: router.acompletion("m", messages)) - await acpu(lambda: litellm.acompletion(**direct))
            for _ in range(5)]
cpu(lambda: router.completion("m", messages), 5)
sync = [cpu(lambda: router.completion("m", messages)) - cpu(lambda: litellm.completion(**direct)) for _ in range(5)]
picks = [cpu(lambda: router.get_available_deployment("m", messages=messages)) for _ in range(5)]
print(json.dumps({"generate_us": statistics.median(sync), "agenerate_us": statistics.median(asyncio.run(run_async())),
                  "decide_us": statistics.median(picks)}))
"""


def peer(calls: int) -> dict[str, float] | None:
    """LiteLLM Router's own overhead over `litellm.completion`, both with its mock answer; None without it."""
    if not LITELLM.exists():
        print("LiteLLM is not installed and left out: make bench makes its environment")
        return None
    code = f"PROMPT, CALLS = {PROMPT!r}, {calls}\n{PEER}"
    done = subprocess.run([LITELLM, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        print(f"LiteLLM could not be measured: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


BUDGETS = {"generate_us": 150.0, "agenerate_us": 150.0, "token_us": 10.0, "async_token_us": 10.0}
NAMES = {
    "generate_us": "generate over the backend",
    "agenerate_us": "agenerate over the backend",
    "decide_us": "decide (guard, signals, policy)",
    "metrics_us": "metrics for Prometheus, a request",
    "token_us": "a streamed token, sync",
    "async_token_us": "a streamed token, async",
}


def main() -> None:
    options = parsed(with_json(parser(__doc__)))
    size = Size(calls=2, tokens=20, rounds=1) if options.smoke else Size()
    ours, theirs = measure(size), peer(1 if options.smoke else 60) or {}
    print(f"{'CPU added, us':34} {'ours':>9} {'budget':>9} {'LiteLLM Router':>15}")
    for key, name in NAMES.items():
        budget = f"{BUDGETS[key]:.0f}" if key in BUDGETS else "-"
        beside = f"{theirs[key]:.0f}" if key in theirs else "-"
        print(f"{name:34} {ours[key]:9.1f} {budget:>9} {beside:>15}")
    write(options.json, {"ours": ours, "litellm_router": theirs})


if __name__ == "__main__":
    main()
