"""What the tools of our MCP server do with a client."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hybrid_llm.core.generation import Chunk
from hybrid_llm.integrations.mcp.documents import ANSWER, Call, GenerateCall, Simulation
from hybrid_llm.lab.dryrun import Trying, dry_run, preview_document, routing
from hybrid_llm.router.client import HybridLLM

Notify = Callable[[float, float | None, str | None], Awaitable[None]]
"""Takes progress, its total, and a message."""
_PROGRESS_S: Final = 0.05
"""The shortest time between two notifications of progress."""


class Progress:
    """Sends the text of an answer on its way to a client that asked for it, in notifications of progress."""

    def __init__(self, notify: Notify, max_tokens: int | None) -> None:
        self._notify, self._total = notify, max_tokens
        self._tokens = self._reported = 0
        self._text = ""
        self._last = 0.0

    async def add(self, chunk: Chunk) -> None:
        """Send what has come since the last notification, unless that was just now; each has more tokens."""
        self._tokens += chunk.tokens
        self._text += chunk.text
        now = time.monotonic()
        is_due = chunk.finish_reason is not None or now - self._last >= _PROGRESS_S
        if is_due and self._tokens > self._reported:
            await self._notify(float(self._tokens), self._total, self._text or None)
            self._reported, self._last, self._text = self._tokens, now, ""


async def generate(client: HybridLLM, call: GenerateCall, notify: Notify) -> dict[str, Any]:
    """Answer a request; whatever `astream` raises ends it, and so does the cancellation of the task."""
    progress = Progress(notify, call.max_tokens)
    async with client.astream(call.asked, **call.options) as stream:
        async for chunk in stream:
            await progress.add(chunk)
        document = stream.generation.to_dict() | routing(stream.decision)
    return {name: document[name] for name in (*ANSWER["properties"], "parsed")}


async def explain(client: HybridLLM, call: Call, _: Notify) -> dict[str, Any]:
    """Decide a request; nothing is sent."""
    return preview_document(await client.apreview(call.asked, **call.options))


async def simulate(client: HybridLLM, simulation: Simulation, _: Notify) -> dict[str, Any]:
    """Try a policy, which does not take effect, with requests and test cases."""
    requests = [
        Trying(name=call.name or f"requests[{at}]", prompt=call.asked, options=call.options)
        for at, call in enumerate(simulation.requests)
    ]
    return await dry_run(client, simulation.policy, requests, simulation.cases)
