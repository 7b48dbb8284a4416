"""What the wire costs: CPU per streamed token and time of a short call, beside a bare `grpc.aio` server in one run.

    python -m benchmarks wire [--tokens 4000] [--rounds 3]

Node and client are processes of their own, joined by mutual TLS on loopback, and the CPU time of both counts. The
floor is the same generated stub over the same channel, with a handler that only writes chunks. `ours` is the whole
path: `GrpcBackend.astream`, identity, validation, admission, tokenizer, and the queue in front of slow readers.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._run import ROOT, announce, parser
from hybrid_llm.backends.node.engine import EngineConfig, EngineInfo, EngineLoad, EngineOutput, EngineRequest
from hybrid_llm.backends.node.server import NodeConfig, NodeServer
from hybrid_llm.backends.node.supervisor import OutputQueue
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.tls import require_tls13
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Message, Request

BUDGET_US = 60.0
SLOTS = 64


class BenchEngine:
    """Makes tokens as fast as the event loop allows; with *single* each is one message, else they may be joined."""

    def __init__(self, *, single: bool, pace_s: float = 0.0) -> None:
        self.single, self.pace_s = single, pace_s
        self.info: EngineInfo | None = None
        self.healthy = False

    async def start(self) -> EngineInfo:
        self.healthy = True
        self.info = EngineInfo(
            engine="bench", model="bench", architecture="-", vocab_size=256, context_window=1 << 20, slots=SLOTS
        )
        return self.info

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        if self.single:
            for _ in range(request.max_tokens):
                yield EngineOutput(request_id=request.request_id, token_ids=(64,))
                await asyncio.sleep(0)
            yield EngineOutput(request_id=request.request_id, finish_reason=FinishReason.LENGTH)
            return
        outputs = OutputQueue(request.request_id)
        task = asyncio.create_task(self._produce(request, outputs))
        try:
            while not (output := await outputs.take()).last:
                yield output
            yield output
        finally:
            task.cancel()

    async def _produce(self, request: EngineRequest, outputs: OutputQueue) -> None:
        for _ in range(request.max_tokens):
            outputs.put(EngineOutput(request_id=request.request_id, token_ids=(64,)))
            await asyncio.sleep(self.pace_s)
        outputs.put(EngineOutput(request_id=request.request_id, finish_reason=FinishReason.LENGTH))

    def load(self) -> EngineLoad:
        return EngineLoad(slots=SLOTS)

    async def close(self) -> None:
        self.healthy = False


def byte_tokenizer() -> ChatTokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: n for n, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return ChatTokenizer(tokenizer, "{% for m in messages %}{{ m.content }}{% endfor %}", eos_ids=[0])


async def serve(kind: str, folder: str) -> None:
    """Serve until standard input ends; each line on it asks for the CPU seconds used so far."""
    tls = TLSFiles.from_dir(folder, "node")
    pace = 0.01 if kind.endswith("paced") else 0.0
    sealing = Path(folder) / "sealing"
    sealed = sealing if sealing.is_dir() else None
    stop = await (_serve_floor(tls, pace) if kind.startswith("floor") else _serve_ours(kind, tls, pace, sealed))
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(time.process_time(), flush=True)
    await stop()


async def _serve_ours(kind: str, tls: TLSFiles, pace_s: float, sealed: Path | None) -> Callable[[], Awaitable[None]]:
    engine = BenchEngine(single=kind == "single", pace_s=pace_s)
    config = NodeConfig(engine=EngineConfig(model=Path("-")), tls=tls, listen="127.0.0.1:0", sealed=sealed)
    server = NodeServer(config, engine, tokenizer=byte_tokenizer())
    print(await server.start(), flush=True)
    return lambda: server.stop(0.0)


async def _serve_floor(tls: TLSFiles, pace_s: float) -> Callable[[], Awaitable[None]]:
    require_tls13()
    import grpc.aio

    from hybrid_llm.backends.wire.channels import server_credentials
    from hybrid_llm.protos import hybrid_pb2 as pb
    from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMServicer, add_HybridLLMServicer_to_server

    class Floor(HybridLLMServicer):
        async def Generate(self, request: Any, context: Any) -> None:  # noqa: N802
            for _ in range(request.max_tokens):
                await context.write(pb.GenerateChunk(text="a", tokens=1))
                await asyncio.sleep(pace_s)

    server = grpc.aio.server()
    add_HybridLLMServicer_to_server(Floor(), server)
    print(server.add_secure_port("127.0.0.1:0", server_credentials(tls)), flush=True)
    await server.start()
    return lambda: server.stop(0)


@dataclass
class Server:
    """A server process, and how much CPU it has used."""

    kind: str
    process: subprocess.Popen[str]
    port: int

    @classmethod
    def start(cls, kind: str, folder: Path) -> Server:
        command = [sys.executable, "-m", "benchmarks.wire", "--serve", kind, "--folder", str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout
        return cls(kind, process, int(process.stdout.readline()))

    def cpu(self) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.communicate("")


@dataclass
class Sample:
    """One measurement."""

    cpu_us: float
    tokens_per_s: float
    messages: float


Ask = Callable[[int], Awaitable[int]]
"""Takes how many tokens to ask for; returns how many messages came."""


async def measure(server: Server, ask: Ask, *, streams: int, tokens: int) -> Sample:
    node, client, started = server.cpu(), time.process_time(), time.perf_counter()
    messages = await asyncio.gather(*(ask(tokens // streams) for _ in range(streams)))
    elapsed = time.perf_counter() - started
    cpu = server.cpu() - node + time.process_time() - client
    total = tokens // streams * streams
    return Sample(cpu / total * 1e6, total / elapsed, sum(messages) / total)


def ours(server: Server, tls: TLSFiles) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
    from hybrid_llm.core.clearance import _make_cleared
    from hybrid_llm.core.request import Location

    backend = GrpcBackend(GrpcConfig(target=f"127.0.0.1:{server.port}", tls=tls))

    async def ask(tokens: int) -> int:
        request = Request(messages=(Message(role="user", content="hi"),), max_tokens=tokens)
        cleared = _make_cleared(request, Location.CLOUD)
        return len([None async for _ in backend.astream(cleared)])

    return ask, backend.aclose


def floor(server: Server, tls: TLSFiles) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    from hybrid_llm.backends.wire.channels import aio_channel, client_credentials, client_options
    from hybrid_llm.protos import hybrid_pb2 as pb
    from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMStub

    channel = aio_channel(f"127.0.0.1:{server.port}", client_credentials(tls), client_options())
    stub = HybridLLMStub(channel)  # type: ignore[no-untyped-call]

    async def ask(tokens: int) -> int:
        return len([None async for _ in stub.Generate(pb.GenerateRequest(max_tokens=tokens))])

    return ask, channel.close


async def short_calls(ask: Ask, count: int) -> list[float]:
    """Milliseconds of calls that get one token."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await ask(1)
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


KINDS = {
    "floor": "bare grpc.aio, one token a message",
    "single": "ours, one token a message",
    "joined": "ours, as served: joined when the reader lags",
}


async def run(folder: Path, tokens: int, rounds: int, *, calls: int) -> None:
    tls = TLSFiles.from_dir(folder, "app")
    servers = {kind: Server.start(kind, folder) for kind in (*KINDS, "floor-paced", "paced")}
    asks = {kind: (floor if kind.startswith("floor") else ours)(server, tls) for kind, server in servers.items()}
    try:
        for ask, _ in asks.values():
            await ask(20)
        for streams in (1, 16):
            await _table(servers, asks, streams, tokens, rounds)
        print("\n16 streams of up to 100 tokens/s, each token a message: gRPC's wake-ups make nearly all of it")
        for kind in ("floor-paced", "paced"):
            paced = await measure(servers[kind], asks[kind][0], streams=16, tokens=min(tokens, 3200))
            print(f"{kind:46} {paced.cpu_us:12.1f} us CPU/token")
        await _short(asks, calls)
    finally:
        for _, close in asks.values():
            await close()
        for server in servers.values():
            server.stop()


async def _table(servers: dict[str, Server], asks: dict[str, Any], streams: int, tokens: int, rounds: int) -> None:
    samples: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            samples[kind].append(await measure(servers[kind], asks[kind][0], streams=streams, tokens=tokens))
    least = statistics.median(sample.cpu_us for sample in samples["floor"])
    print(f"\n{streams} stream(s), {tokens} tokens, median of {rounds}; budget {BUDGET_US:.0f} us CPU per token")
    print(f"{'':46} {'us CPU/token':>12} {'x floor':>8} {'tokens/s':>9} {'messages/token':>15}")
    for kind, words in KINDS.items():
        cpu = statistics.median(sample.cpu_us for sample in samples[kind])
        speed = statistics.median(sample.tokens_per_s for sample in samples[kind])
        messages = statistics.median(sample.messages for sample in samples[kind])
        print(f"{words:46} {cpu:12.1f} {cpu / least:8.2f} {speed:9.0f} {messages:15.2f}")


async def _short(asks: dict[str, Any], calls: int) -> None:
    print("\nshort call, one token          p50 ms   p99 ms")
    for kind in ("floor", "joined", "floor", "joined"):
        times = await short_calls(asks[kind][0], calls)
        print(f"{kind:28} {times[calls // 2]:8.2f} {times[int(0.99 * calls)]:8.2f}")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--tokens", type=int, default=4000)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--serve", help=argparse.SUPPRESS)
    made.add_argument("--folder", help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.folder))
        return
    announce(options)
    if options.smoke:
        options.tokens, options.rounds = 32, 1
    with tempfile.TemporaryDirectory() as temporary:
        make_authority(temporary)
        issue(temporary, "node", kind="node", hosts=["127.0.0.1"])
        issue(temporary, "app")
        asyncio.run(run(Path(temporary), options.tokens, options.rounds, calls=4 if options.smoke else 300))


if __name__ == "__main__":
    main()
