"""What sealed mode costs over gRPC beside unsealed in one run, and what a proxy that ends TLS reads of 2,000 requests.

    python -m benchmarks sealed [--requests 2000] [--tokens 2000] [--rounds 5] [--json FILE]

Node and client are processes of their own, joined by mutual TLS on loopback; the CPU time of both counts. Each round
measures every form once, so that all see the same load of the machine. The engine makes a token at no cost, and each
token is a message of its own, which is the dearest case. The proxy presents a certificate that the app trusts, opens a
connection of its own to the node, and keeps all that passes. It must find every planted word of the unsealed requests,
else it would prove nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks._run import announce, parser, with_json, write
from benchmarks._tls_proxy import RecordingProxy
from benchmarks.wire import Server
from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.sealing.keys import write_key
from hybrid_llm.backends.wire.sealing.pins import SealedSpec
from hybrid_llm.backends.wire.sealing.suites import SUITES
from hybrid_llm.core.clearance import _make_cleared
from hybrid_llm.core.request import Location, Message, Request

PLAIN = "unsealed"
FORMS = (PLAIN, *SUITES)
PROMPT = "A question of usual length, such as people ask. " * 20


async def ask(backend: GrpcBackend, text: str, tokens: int) -> AsyncGenerator[str, None]:
    request = Request(messages=(Message(role="user", content=text),), max_tokens=tokens)
    async for chunk in backend.astream(_make_cleared(request, Location.CLOUD)):
        yield chunk.text


async def drained(backend: GrpcBackend, text: str, tokens: int) -> str:
    return "".join([piece async for piece in ask(backend, text, tokens)])


def backends(target: str, folder: Path) -> dict[str, GrpcBackend]:
    """One backend for each form; each suite pins its own key alone."""
    tls = TLSFiles.from_dir(folder, "app")
    made = {PLAIN: GrpcBackend(GrpcConfig(target=target, tls=tls))}
    for name in SUITES:
        pins = SealedSpec(keys=folder / "sealing" / f"{name}.seal.pub")
        made[name] = GrpcBackend(GrpcConfig(target=target, tls=tls, sealed=pins))
    return made


async def cost(server: Server, backend: GrpcBackend, *, calls: int, tokens: int) -> tuple[float, float]:
    """CPU microseconds of node and client for a call, and its time in milliseconds (median)."""
    times = []
    node, client = server.cpu(), time.process_time()
    for _ in range(calls):
        began = time.perf_counter()
        await drained(backend, PROMPT, tokens)
        times.append(1e3 * (time.perf_counter() - began))
    used = server.cpu() - node + time.process_time() - client
    return 1e6 * used / calls, statistics.median(times)


async def costs(server: Server, folder: Path, *, calls: int, tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """For each form: CPU and time of a request of one token, and CPU of each further token; medians of *rounds*."""
    samples: dict[str, list[tuple[float, float, float]]] = {form: [] for form in FORMS}
    async with AsyncExitStack() as stack:
        made = backends(f"127.0.0.1:{server.port}", folder)
        for backend in made.values():
            stack.push_async_callback(backend.aclose)
            await drained(backend, PROMPT, 20)
        for _ in range(rounds):
            for form, backend in made.items():
                short, ms = await cost(server, backend, calls=calls, tokens=1)
                long, _ = await cost(server, backend, calls=1, tokens=tokens)
                samples[form].append((short, ms, (long - short) / (tokens - 1)))
    names = ("request_us", "request_ms", "token_us")
    return {
        form: {name: statistics.median(each[at] for each in found) for at, name in enumerate(names)}
        for form, found in samples.items()
    }


async def seen(server: Server, folder: Path, requests: int) -> dict[str, dict[str, float]]:
    """For each form: how many of the planted words the proxy found in *requests* requests, and the bytes of each."""
    found: dict[str, dict[str, float]] = {}
    files = TLSFiles.from_dir(folder, "middle"), TLSFiles.from_dir(folder, "relay")
    for form in FORMS:
        with RecordingProxy(*files, server.port) as proxy:
            backend = backends(proxy.target, folder)[form]
            words = [f"planted-{secrets.token_hex(8)}" for _ in range(requests)]
            for word in words:
                await drained(backend, f"Tell me of {word}.", 12)
            await backend.aclose()
        passed = bytes(proxy.up) + bytes(proxy.down)
        found[form] = {
            "words": sum(word.encode() in passed for word in words),
            "bytes": len(passed) / requests,
        }
    return found


async def run(folder: Path, *, requests: int, calls: int, tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    server = Server.start("single", folder)
    try:
        figures = await costs(server, folder, calls=calls, tokens=tokens, rounds=rounds)
        watched = await seen(server, folder, requests)
    finally:
        server.stop()
    return {form: figures[form] | watched[form] for form in FORMS}


def report(figures: dict[str, dict[str, float]], requests: int) -> bool:
    """Print the tables; whether the proxy found nothing of what was sealed, and all of the rest."""
    print(f"\n{'':18} {'us CPU/request':>15} {'ms/request':>11} {'us CPU/token':>13} {'bytes/request':>14}")
    for form, each in figures.items():
        row = f"{each['request_us']:15.0f} {each['request_ms']:11.2f} {each['token_us']:13.1f} {each['bytes']:14.0f}"
        print(f"{form:18} {row}")
    print(f"\na proxy that ends TLS, {requests} requests in each form: planted words that it found")
    for form, each in figures.items():
        print(f"{form:18} {each['words']:.0f}")
    sealed = [each for form, each in figures.items() if form != PLAIN]
    return figures[PLAIN]["words"] == requests and not any(each["words"] for each in sealed)


def main() -> int:
    made = with_json(parser(__doc__))
    made.add_argument("--requests", type=int, default=2000)
    made.add_argument("--calls", type=int, default=300)
    made.add_argument("--tokens", type=int, default=2000)
    made.add_argument("--rounds", type=int, default=5)
    options = made.parse_args()
    announce(options)
    if options.smoke:
        options.requests, options.calls, options.tokens, options.rounds = 3, 2, 8, 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_authority(folder)
        for name in ("node", "middle"):
            issue(folder, name, kind="node", hosts=["127.0.0.1"])
        for name in ("app", "relay"):
            issue(folder, name)
        for name, suite in SUITES.items():
            write_key(folder / "sealing", name, suite=suite, days=1)
        sizes = {name: getattr(options, name) for name in ("requests", "calls", "tokens", "rounds")}
        figures = asyncio.run(run(folder, **sizes))
    write(options.json, {"sealed": figures, **sizes})
    return 0 if report(figures, options.requests) else 1


if __name__ == "__main__":
    sys.exit(main())
