"""A day of a cluster in minutes: it grows under load, loses a replica, is updated, and shrinks. Prints what it saw.

    unshare ... python -m tests.backends.ray.scenario PYTHON_WITH_RAY

Every greedy answer is compared with the one that the same prompt got when nothing else ran.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.core.clearance import _make_cleared
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.request import Location, Message, Request
from tests.backends.ray.cluster import NODE_MODEL, Cluster, Front, until
from tests.endless import endless

PROMPTS = 12
STREAMS = 16
TOKENS = 96
METRICS = 9465


def asked(number: int, tokens: int = TOKENS) -> Any:
    message = Message(role="user", content=f"Tell me about the number {number} and its friends.")
    return _make_cleared(Request(messages=(message,), max_tokens=tokens, deadline=300.0), Location.CLOUD)


async def answer(backend: GrpcBackend, number: int) -> tuple[str, int]:
    chunks = [chunk async for chunk in backend.astream(asked(number))]
    return "".join(chunk.text for chunk in chunks), sum(chunk.tokens for chunk in chunks)


class Traffic(threading.Thread):
    """STREAMS requests at a time until `stop`, each answer compared with the *expected* one."""

    def __init__(self, front: Front, expected: list[tuple[str, int]]) -> None:
        super().__init__(daemon=True)
        self._front, self._expected = front, expected
        self._over = threading.Event()
        self.seen: Counter[str] = Counter()
        self.slowest = 0.0

    def run(self) -> None:
        asyncio.run(self._play())

    async def _play(self) -> None:
        backend = GrpcBackend(GrpcConfig(target=self._front.target, tls=self._front.files))
        await asyncio.gather(*(self._ask(backend, number) for number in range(STREAMS)))

    async def _ask(self, backend: GrpcBackend, number: int) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                same = await answer(backend, number % PROMPTS) == self._expected[number % PROMPTS]
                self.seen["whole" if same else "different"] += 1
            except HybridLLMError as error:
                self.seen[type(error).__name__] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            number += STREAMS + 1

    def stop(self) -> dict[str, float]:
        self._over.set()
        self.join()
        return {**self.seen, "slowest_s": round(self.slowest, 1)}


def metric(name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), -1.0)


def foreign() -> int:
    """Connections of any process to something else than loopback."""
    peers = [each.raddr.ip for each in psutil.net_connections("inet") if each.raddr]
    return sum(not (ip.startswith(("127.", "::ffff:127.")) or ip == "::1") for ip in peers)


def play(cluster: Cluster, front: Front, model: Path, args: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = {"usage": cluster.ask("/usage_stats_enabled")["data"]["usageStatsEnabled"]}

    async def alone() -> list[tuple[str, int]]:
        backend = GrpcBackend(GrpcConfig(target=front.target, tls=front.files))
        return [await answer(backend, number) for number in range(PROMPTS)]

    expected = asyncio.run(alone())
    seen["tokens"] = sorted({count for _, count in expected})
    traffic = Traffic(front, expected)
    traffic.start()
    seen["grown_s"] = round(until(lambda: len(cluster.replicas()) == 3), 1)
    until(lambda: metric("hybrid_llm_node_replicas") == 3)
    say("three replicas")
    killed = cluster.replicas()[0]["pid"]
    cluster.kill(killed)
    time.sleep(1)
    until(lambda: len([each for each in cluster.replicas() if each["pid"] != killed]) == 3)
    seen["continuations"] = metric("hybrid_llm_node_continuations")
    seen["killed"] = traffic.stop()
    say(f"a replica was killed: {seen['killed']}")

    old = {each["pid"] for each in cluster.replicas()}
    traffic = Traffic(front, expected)
    traffic.start()
    cluster.deploy({**args, "model": str(endless(NODE_MODEL, model.with_name("second")))}, least=1, most=3)
    until(lambda: len(now := {each["pid"] for each in cluster.replicas()}) == 3 and not now & old)
    seen["updated"] = traffic.stop()
    say(f"updated: {seen['updated']}")
    seen["shrunk_s"] = round(until(lambda: len(cluster.replicas()) == 1), 1)
    until(lambda: metric("hybrid_llm_node_replicas") == 1)

    seen["cancelled"] = asyncio.run(cancelled(front))
    seen["foreign"] = foreign()
    cluster.kill(cluster.replicas()[0]["pid"])
    seen["unready_s"] = round(until(lambda: metric("hybrid_llm_node_ready") == 0), 1)
    seen["ready_again_s"] = round(until(lambda: metric("hybrid_llm_node_ready") == 1), 1)
    return seen


async def cancelled(front: Front) -> dict[str, float]:
    """Leave eight answers in the middle; the replica is idle at once."""
    backend = GrpcBackend(GrpcConfig(target=front.target, tls=front.files))
    streams = [backend.astream(asked(number, 900)) for number in range(8)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    await asyncio.to_thread(until, lambda: metric("vllm:num_requests_running") == 8, 20)
    began = time.monotonic()
    for stream in streams:
        await stream.aclose()
    await asyncio.to_thread(until, lambda: metric("vllm:num_requests_running") == 0, 20)
    return {"idle_after_s": round(time.monotonic() - began, 1)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(python: str) -> None:
    with tempfile.TemporaryDirectory() as temporary, Cluster(python, folder := Path(temporary)) as cluster:
        model = endless(NODE_MODEL, folder / "first")
        args = {"model": str(model), "dtype": "fp32", "threads": 1, "max_slots": 8, "kv_tokens": 16384}
        cluster.deploy(args, least=1, most=3)
        until(cluster.replicas)
        say("deployed")
        options = {"engine": "ray", "replicas": "127.0.0.1:9000", "metrics": f"127.0.0.1:{METRICS}"}
        with Front(folder, model, "front", **options) as front:
            print(json.dumps(play(cluster, front, model, args)))


if __name__ == "__main__":
    main(*sys.argv[1:])
