"""Starts and ends the node's child processes: Python modules of ours that talk over a pair of pipes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

_log = logging.getLogger(__name__)
_END_S: Final = 5.0
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


async def spawn(
    arguments: Sequence[str], *, environment: Mapping[str, str] = _NOTHING, stderr: int | None = None
) -> Process:
    """Run Python with *arguments*, in a process group of its own: Ctrl-C in a terminal reaches the parent only."""
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return await create_subprocess_exec(
        sys.executable,
        "-P",
        *arguments,
        stdin=PIPE,
        stdout=PIPE,
        stderr=stderr,
        env={**os.environ, **environment, "PYTHONPATH": path},
        process_group=0 if os.name == "posix" else None,
    )


def kill(process: Process) -> None:
    """Kill by the pid: `Process.kill` would reap a child that has just ended, which asyncio then misses."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


async def end(process: Process, *, within: float = _END_S) -> None:
    """Kill the process if it runs, for one that holds no state that must be saved.

    One that has not ended *within* seconds is left: a driver holds it, and its kill is pending, or a child of its own
    holds its output. A caller that is cancelled waits all the same, so that no child is left unreaped.
    """
    kill(process)
    ended = asyncio.ensure_future(_ended(process, within))
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        await ended
        raise


async def _ended(process: Process, within: float) -> None:
    try:
        async with asyncio.timeout(within):
            await process.wait()
    except TimeoutError:
        _log.error("process %d, or what holds its output, has not ended %g s after its kill: left", process.pid, within)
        process._transport.close()  # type: ignore[attr-defined]  # asyncio has no other way to close the pipes
    assert process.stdin is not None
    process.stdin.close()
