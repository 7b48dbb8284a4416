"""A real gateway over exact answers, in a process of its own: `python -m tests.chaos.http_node TLS LISTEN JOURNAL ...`.

Everything but the backend is what `hybrid-llm gateway` runs, over TLS: application, server, a graceful end at SIGTERM.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TextIO

import uvicorn

from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.request import Location, Request
from hybrid_llm.gateway.app import gateway_app
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.exact import ExactEdge

SEEN = "seen"
"""Begins the line of the journal of a prompt that has come."""


class ExactCloud(ExactEdge):
    """The exact answers as a server gives them, which may be asked by a user turn to go on with a partial answer."""

    def __init__(self, journal: TextIO, first_s: float, step_s: float, slots: int) -> None:
        super().__init__(step_s=step_s, piece=12)
        self.name, self.location = "exact", Location.CLOUD
        self._journal, self._first_s, self._free = journal, first_s, asyncio.Semaphore(slots)

    def question(self, request: Request) -> tuple[str, str]:
        """The prompt, and the partial answer to go on with."""
        given = [message.content for message in request.messages if message.role == "assistant"]
        return request.messages[0].content, "".join(given) + request.answer_prefix

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        prompt, _ = self.question(require_clearance(cleared, self.location))
        print(SEEN, prompt, sep="\t", file=self._journal)
        done = False
        try:
            async with self._free:
                await asyncio.sleep(self._first_s)
                async for chunk in super().astream(cleared):
                    done = chunk.finish_reason is not None
                    yield chunk
        finally:
            if not done:
                print(prompt, time.monotonic(), sep="\t", file=self._journal)


async def main(tls: str, listen: str, journal: str, slots: str, queue: str, first_s: str, step_s: str) -> None:
    with Path(journal).open("a", buffering=1, encoding="utf-8") as log:
        backend = ExactCloud(log, float(first_s), float(step_s), int(slots))
        policy = parse_policy("version: 1\nname: node\n", backends={"exact": Location.CLOUD})
        app = gateway_app(HybridLLM([backend], policy, sensors=FixedSensors()))
        host, _, port = listen.rpartition(":")
        listener = socket.create_server((host, int(port)), backlog=2048)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ssl_certfile=f"{tls}/node.pem",
            ssl_keyfile=f"{tls}/node.key",
            limit_concurrency=int(slots) + int(queue),
            timeout_graceful_shutdown=10,
        )
        server = uvicorn.Server(config)
        print(f"PORT {listener.getsockname()[1]}", flush=True)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
