"""Tokens a second of replicas in Ray Serve behind our front, beside a plain node on the same machine, interleaved.

It needs an environment with ray[serve], torch and transformers, whose Python HYBRID_LLM_RAY_PYTHON names, and runs in
namespaces of its own.

python -m benchmarks ray_serve               # 1 and 16 streams; a node, then a front with two replicas
python -m benchmarks ray_serve --rounds 5
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks._run import announce, parser
from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.core.clearance import Cleared, _make_cleared
from hybrid_llm.core.request import Location, Message, Request
from tests.backends.ray.cluster import NODE_MODEL, VARIABLE, Cluster, Front, isolated, until
from tests.endless import endless

TOKENS = 128


def asked(number: int, tokens: int) -> Cleared:
    """A request whose answer has so many tokens."""
    message = Message(role="user", content=f"Tell me about the number {number}.")
    return _make_cleared(Request(messages=(message,), max_tokens=tokens, deadline=300.0), Location.CLOUD)


async def trial(front: Front, streams: int, tokens: int) -> tuple[float, float]:
    """Tokens a second over all *streams*, and the median time to the first token, ms."""
    backend = GrpcBackend(GrpcConfig(target=front.target, tls=front.files))
    firsts: list[float] = []

    async def answer(number: int) -> int:
        began, count = time.perf_counter(), 0
        async for chunk in backend.astream(asked(number, tokens)):
            if not count:
                firsts.append((time.perf_counter() - began) * 1000)
            count += chunk.tokens
        return count

    await answer(0)  # connected, and the model warm
    firsts.clear()
    began = time.perf_counter()
    total = sum(await asyncio.gather(*(answer(number) for number in range(1, streams + 1))))
    return total / (time.perf_counter() - began), statistics.median(firsts)


def measure(python: str, rounds: int, tokens: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as temporary, Cluster(python, folder := Path(temporary)) as cluster:
        model = endless(NODE_MODEL, folder / "model")
        args = {"model": str(model), "dtype": "fp32", "threads": 1, "max_slots": 16, "kv_tokens": 16 * 512}
        cluster.deploy(args, least=2, most=2)
        until(lambda: len(cluster.replicas()) == 2)
        node = {"dtype": "fp32", "threads": 1, "slots": 16, "kv-tokens": 16 * 512}
        with (
            Front(folder, model, "node", **node) as plain,
            Front(folder, model, "front", engine="ray", replicas="127.0.0.1:9000") as front,
        ):
            print("| streams | | tokens/s | first token, ms |\n|---|---|---|---|")
            for streams in (1, 16):
                seen: dict[str, list[tuple[float, float]]] = {"a node": [], "a front, two replicas": []}
                for _ in range(rounds):
                    for name, each in zip(seen, (plain, front), strict=True):
                        seen[name].append(asyncio.run(trial(each, streams, tokens)))
                for name, figures in seen.items():
                    rate, first = (statistics.median(column) for column in zip(*figures, strict=True))
                    print(f"| {streams} | {name} | {rate:.0f} | {first:.0f} |", flush=True)


def main() -> None:
    """Run the benchmark, or the part of it that is in the namespaces."""
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3, metavar="N", help="measure each N times, interleaved (3)")
    made.add_argument("--inside", action="store_true", help="be the part that runs in the namespaces")
    options = made.parse_args()
    rounds, tokens = (1, 8) if options.smoke else (options.rounds, TOKENS)
    python = os.environ.get(VARIABLE)
    if options.inside:
        return measure(str(python), rounds, tokens)
    announce(options)
    if not python:
        return print(f"skipped: {VARIABLE} names no Python with ray[serve], torch and transformers")
    words = ["--inside", f"--rounds={rounds}", *(["--smoke"] if options.smoke else [])]
    return print(isolated("benchmarks.ray_serve", *words, timeout=1800))


if __name__ == "__main__":
    main()
