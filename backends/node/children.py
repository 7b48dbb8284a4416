"""Starts and ends the node's child processes: programs in Python that talk over a pair of pipes."""

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
_KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)
_OF_OURS: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""Variables that lead Python to the packages of this environment."""
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


async def spawn(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] = _NOTHING,
    stderr: int | None = None,
    python: Path | None = None,
) -> Process:
    """Run Python with *arguments*, in a session of its own: Ctrl-C in a terminal reaches the parent only.

    *python* is that of another environment, in which no package of this one is found; by default it is ours.
    """
    return await create_subprocess_exec(
        python or sys.executable,
        "-P" if python is None else "-I",
        *arguments,
        stdin=PIPE,
        stdout=PIPE,
        stderr=stderr,
        env=_ours(environment) if python is None else _of_another(environment),
        start_new_session=True,  # uvloop, which Ray Serve installs, knows no `process_group`
    )


def _ours(environment: Mapping[str, str]) -> dict[str, str]:
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, **environment, "PYTHONPATH": path}


def _of_another(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OF_OURS} | dict(environment)


def kill(process: Process) -> None:
    """Kill a process that `spawn` started, and all that it has started: also once it has ended itself.

    By its number: `Process.kill` would reap a child that has just ended, which asyncio then misses.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, _KILL)
        elif process.returncode is None:
            os.kill(process.pid, _KILL)


async def end(process: Process, *, within: float = _END_S) -> None:
    """Kill the process and what it has started, for one that holds no state that must be saved.

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
