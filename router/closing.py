"""Closes what a client holds, the last in first out. What fails must not keep the others open."""

from __future__ import annotations

import logging

from hybrid_llm.core.loops import LoopThread
from hybrid_llm.core.threads import Workers, close_aside
from hybrid_llm.core.tracebacks import guarded
from hybrid_llm.router.pipeline import Pipeline

_log = logging.getLogger("hybrid_llm")


def close_parts(pipeline: Pipeline, loop: LoopThread, workers: Workers) -> None:
    """Close the parts of a client, to which they do not refer: it may be garbage."""
    pipeline.close()
    for backend in reversed(pipeline.fleet.backends.values()):
        guarded(backend.close, f"closing {backend.name}")
    loop.close()
    workers.close()


async def aclose_parts(pipeline: Pipeline, loop: LoopThread, workers: Workers) -> None:
    """Do as `close_parts` does, from an event loop, without blocking it."""
    try:
        await close_aside("hybrid-llm-close", pipeline.close)
    finally:
        for backend in reversed(pipeline.fleet.backends.values()):
            try:
                await backend.aclose()
            except Exception as error:  # noqa: BLE001  # whatever a backend of the app's raises
                _log.warning("closing %s failed with %s", backend.name, type(error).__name__)
        loop.close()
        workers.close()
