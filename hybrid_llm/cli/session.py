"""Runs the library's async face for a terminal: one event loop, one client, one answer at a time, stopped by Ctrl-C.

The async face is used because cancelling a task reaches a backend even in the middle of a long prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from hybrid_llm.cli.terminal import Progress
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import GenerateOptions, Prompt
from hybrid_llm.core.signals import Signals

_PATIENCE_S = 1.0
"""Seconds without a token after which a terminal is told that something is being done."""


class Session:
    """A client and its event loop. Use it as a context manager: leaving it closes what it opened."""

    def __init__(self, config: Path | None) -> None:
        """Open the client of *config*, else of `HYBRID_LLM_CONFIG`, else the default client of this process."""
        from hybrid_llm.router.client import HybridLLM
        from hybrid_llm.router.default import CONFIG_VARIABLE, default_client

        path = config or os.environ.get(CONFIG_VARIABLE)
        self._owned = bool(path)
        self._client = HybridLLM.from_config(path, serve_metrics=False) if path else default_client()
        self._runner = asyncio.Runner()

    def ask(
        self,
        prompt: Prompt,
        options: GenerateOptions,
        *,
        on_text: Callable[[str], None],
        on_decision: Callable[[Decision], None] = lambda _: None,
    ) -> Generation:
        """Answer *prompt*, piece by piece to *on_text*; KeyboardInterrupt stops the backend before it is raised."""
        return self._runner.run(self._ask(prompt, options, on_text, on_decision))

    async def _ask(
        self,
        prompt: Prompt,
        options: GenerateOptions,
        on_text: Callable[[str], None],
        on_decision: Callable[[Decision], None],
    ) -> Generation:
        async with self._client.astream(prompt, **options) as stream:
            on_decision(stream.decision)
            async with _patience(stream.decision) as arrived:
                async for chunk in stream:
                    arrived()
                    on_text(chunk.text)
            return stream.generation

    def decide(self, prompt: Prompt, options: GenerateOptions) -> Decision:
        """Tell who would be asked; nothing is sent."""
        return self._client.decide(prompt, **options)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends of the client."""
        return self._client.backends

    def signals(self) -> Signals:
        """What a policy would see now."""
        return self._client.signals()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if self._owned:
                self._runner.run(self._client.aclose())
        finally:
            self._runner.close()


@contextlib.asynccontextmanager
async def _patience(decision: Decision) -> AsyncIterator[Callable[[], None]]:
    """Show on a terminal that the first token is awaited; yields what is to be called when something came."""
    progress = Progress(f"waiting for {decision.order[0]}" if decision.order else "waiting")
    task = asyncio.create_task(_wait(progress)) if progress.live else None

    def arrived() -> None:
        if task is not None:
            task.cancel()
        progress.clear()

    try:
        yield arrived
    finally:
        arrived()


async def _wait(progress: Progress) -> None:
    while True:
        await asyncio.sleep(_PATIENCE_S)
        progress.phase("loading or reading the prompt")
