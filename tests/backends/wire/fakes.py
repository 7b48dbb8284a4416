"""A fake engine, a byte tokenizer and helpers that run a real node in a thread. No torch, real gRPC and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path

from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.node.engine import EngineConfig, EngineDied, EngineInfo, EngineLoad, EngineOutput
from hybrid_llm.backends.node.server import NodeConfig, NodeServer
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.backends.wire import TLSFiles
from hybrid_llm.core.clearance import _make_cleared
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Location, Message, Request, Sampling

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "


def byte_tokenizer(**options):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return ChatTokenizer(tokenizer, TEMPLATE, eos_ids=[0], **options)


class FakeEngine:
    """Answers with the tokens of *answer*, one each *delay* seconds; counts who is in a slot.

    *logprobs*: it reports that it scores tokens, and does, each with minus its position; *silent*: it does not.
    *penalties*: it reports that it follows them.
    """

    def __init__(
        self, answer="hello from the node", *, delay=0.0, slots=2, window=4096, error=None, die_after=None,
        logprobs=False, silent=False, penalties=True, adapters=(),
    ):  # fmt: skip
        self.logprobs, self.silent, self.penalties, self.adapters = logprobs, silent, penalties, adapters
        self.ids = byte_tokenizer().tokenizer.encode(answer).ids
        self.delay, self.slots, self.window, self.error = delay, slots, window, error
        self.active, self.seen, self.aborted = 0, [], 0
        self.info, self.healthy, self.die, self.cached, self.die_after = None, False, False, 0, die_after

    async def start(self):
        self.info = EngineInfo(
            engine="fake", model="fake-model", architecture="Fake", vocab_size=256, context_window=self.window,
            slots=self.slots, logprobs=self.logprobs, penalties=self.penalties, adapters=self.adapters,
        )  # fmt: skip
        self.healthy = True
        return self.info

    async def stream(self, request):
        self.seen.append(request)
        self.active += 1
        done = False
        try:
            if self.error is not None:
                yield EngineOutput(request_id=request.request_id, error=self.error)
                return
            ids = self.ids[: request.max_tokens]
            for number, token in enumerate(ids):
                if self.die or number == self.die_after:
                    raise EngineDied("the engine process ended", retry_after=0.5)
                await asyncio.sleep(self.delay)
                scores = self._scores(request, number, token)
                yield EngineOutput(request_id=request.request_id, token_ids=(token,), scores=scores, queue_ms=1.5)
            reason = FinishReason.STOP if len(ids) == len(self.ids) else FinishReason.LENGTH
            end = {"finish_reason": reason, "queue_ms": 1.5, "cached_tokens": self.cached}
            yield EngineOutput(request_id=request.request_id, **end)
            done = True
        finally:
            self.active -= 1
            self.aborted += not done

    def _scores(self, request, number, token):
        if request.logprobs is None or self.silent:
            return ()
        return (TokenScores(-float(number), ((token, -0.25), (token + 1, -1.5))[: request.logprobs]),)

    def load(self):
        running = {request.adapter for request in self.seen[-self.active :] if request.adapter} if self.active else ()
        return EngineLoad(active=self.active, waiting=0, slots=self.slots, running_adapters=tuple(running))

    async def close(self):
        self.healthy = False


class Node:
    """A node in a thread with an event loop of its own."""

    def __init__(self, tls: TLSFiles, engine=None, tokenizer=None, **config):
        self.engine = engine or FakeEngine()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        config.setdefault("listen", "127.0.0.1:0")
        self.config = NodeConfig(engine=EngineConfig(model=Path("unused")), tls=tls, **config)
        self.server = NodeServer(self.config, self.engine, tokenizer=tokenizer or byte_tokenizer())
        self.port = 0

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def __enter__(self):
        self.thread.start()
        self.port = self.do(self.server.start())
        return self

    def __exit__(self, *_):
        self.do(self.server.stop(0.2))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"


class Proxy:
    """A TCP proxy that records what the client sends, and can garble or cut what the node answers."""

    def __init__(self, port: int):
        self.upstream, self.sent, self.connections = port, bytearray(), 0
        self.garble_after: int | None = None
        self.cut, self.silent = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self.upstream))
                self.sockets += [client, server]
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source, sink, up):
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.silent.is_set():
                    time.sleep(0.01)
                if up:
                    self.sent += data
                elif self.garble_after is not None and passed + len(data) > self.garble_after:
                    data = bytes(byte ^ 0x55 for byte in data)
                passed += len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def close(self):
        for each in [self.listener, *self.sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def cleared(text="hi", *, location=Location.CLOUD, **fields):
    fields.setdefault("deadline", 10.0)
    fields.setdefault("max_tokens", 64)
    messages = fields.pop("messages", (Message(role="user", content=text),))
    sampling = fields.pop("sampling", Sampling())
    request = Request(messages=messages, sampling=sampling, **fields)
    return _make_cleared(request, location)


def backend(target, tls, **config):
    return GrpcBackend(GrpcConfig(target=target, tls=tls, **config))


def answer(chunks):
    return "".join(chunk.text for chunk in chunks)


async def collect(stream):
    return [chunk async for chunk in stream]


def eventually(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
