"""What the tests of the MCP server share: a slow backend, a client with fakes, and a server process with them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from hybrid_llm import HybridLLM
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend, Script

ROOT = Path(__file__).resolve().parents[2]
POLICY = """
version: 1
name: hosts
tags:
  phi: {allow: [edge], detect: [medical_record]}
  public: {allow: [edge, cloud]}
rules:
  - prefer: [cloud, edge]
    when: request.task == "hard"
    because: it is hard
  - prefer: [edge, cloud]
    because: the device first
"""
FOR_EVER = 1_000_000


class SlowBackend(FakeBackend):
    """Writes a word every few milliseconds, and a file when its work is left."""

    def __init__(self, name: str, location: Location, *scripts: Script, left: Path | None = None) -> None:
        super().__init__(name, location, *scripts)
        self.left = left
        self.running = 0

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        request = require_clearance(cleared, self.location)
        self.requests.append(request)
        words = 5 if request.max_tokens < 100 else FOR_EVER
        self.running += 1
        try:
            for number in range(words):
                await asyncio.sleep(0.03)
                yield Chunk(text=f"w{number} ")
            yield Chunk(
                tokens=0,
                finish_reason=FinishReason.STOP,
                usage=Usage(prompt_tokens=3, completion_tokens=words),
            )
        except (asyncio.CancelledError, GeneratorExit):
            self.abandoned += 1
            if self.left is not None:
                self.left.write_text("left", "utf-8")
            raise
        finally:
            self.running -= 1


def slow_client(left: Path | None = None, **options: Any) -> HybridLLM:
    """A client of a slow device and a cloud that answers at once."""
    edge, cloud = SlowBackend("edge", Location.EDGE, left=left), FakeBackend("cloud", Location.CLOUD, ["far"])
    backends: list[Any] = [edge, cloud]
    policy = parse_policy(POLICY, backends={backend.name: backend.location for backend in backends})
    return HybridLLM(backends, policy, **options)


def script(module: str, *arguments: object) -> tuple[list[str], Mapping[str, str]]:
    """The command that runs a module of the tests, and its environment."""
    return [sys.executable, "-m", module, *map(str, arguments)], {"PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    from hybrid_llm.integrations.mcp import serve_stdio

    asyncio.run(serve_stdio(slow_client(Path(sys.argv[1]))))
