"""An engine in a process of its own, kept alive: the front's side of the pipe and the supervisor. No torch here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from hybrid_llm.backends.node.engine import (
    EngineConfig,
    EngineDied,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from hybrid_llm.backends.node.ipc import (
    HEADER,
    Abort,
    Message,
    Outlet,
    Progress,
    Ready,
    Refused,
    Start,
    Step,
    decode,
    encode,
)
from hybrid_llm.core.errors import ConfigError

_log = logging.getLogger(__name__)
_BACKOFF = (0.5, 30.0)
"""Seconds before the first restart and, doubled each time, at most."""
_GRACE = 1.0
"""Seconds after a request's deadline at which the front stops waiting for the engine to say so."""
_SILENCE = 60.0
"""Seconds without a word from the engine after which a deadline that it missed is taken for its death."""
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class EngineProcess:
    """`AsyncEngine` over a child process, restarted with backoff when it dies.

    *on_health* is called with True when the engine can take requests, and with False when it no longer can.
    *on_progress* hears of each phase of loading. Use it within one running event loop; `close` it, or use `async with`.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_health: Callable[[bool], None] | None = None,
        *,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self._config = config
        self._on_health = on_health or (lambda _: None)
        self._on_progress = on_progress or (lambda _: None)
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._outlets: dict[str, Outlet] = {}
        self._tickets = count()
        self._info: EngineInfo | None = None
        self._load = EngineLoad()
        self._healthy = False
        self._backoff = _BACKOFF[0]
        self._restarts = 0
        self._heard = time.monotonic()

    async def __aenter__(self) -> EngineProcess:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def info(self) -> EngineInfo | None:
        """What was loaded; None before `start` is done."""
        return self._info

    @property
    def healthy(self) -> bool:
        """Whether a request can be taken now."""
        return self._healthy

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def restarts(self) -> int:
        """How often the process had to be started again."""
        return self._restarts

    async def start(self) -> EngineInfo:
        """Start the process and wait until its model is loaded.

        Raises:
            ConfigError: the folder or an option is wrong; the message has the remedy.
            EngineDied: the process went away while it loaded, or `start` was called before.
        """
        if self._supervisor is not None:
            raise EngineDied("this EngineProcess was started before: make a new one")
        loop = asyncio.get_running_loop()
        started: asyncio.Future[EngineInfo] = loop.create_future()
        self._supervisor = loop.create_task(self._supervise(started), name="engine-supervisor")
        try:
            return await started
        except BaseException:
            await self.close()
            raise

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Generate. The last output has a finish reason or an error; closing the generator frees the slot.

        Outputs that the caller has not taken yet are joined to one.

        Raises:
            EngineDied: the engine is not there, or went away.
        """
        ticket = str(next(self._tickets))
        refusal = self._submit(replace(request, request_id=ticket))
        if refusal is not None:
            yield EngineOutput(request_id=request.request_id, error=refusal)
            return
        outlet = self._outlets[ticket] = Outlet(request.request_id)
        outlet.expire_at(request.expires + _GRACE, self._suspect)
        try:
            while True:
                output = await outlet.take()
                yield output
                if output.last:
                    return
        finally:
            outlet.close()
            if self._outlets.pop(ticket, None) is not None and not outlet.finished:
                self._send(encode(Abort(ticket)))

    def load(self) -> EngineLoad:
        """How busy it was at its last step; no I/O."""
        return self._load

    async def close(self) -> None:
        """Stop the process; streams in flight end with `EngineDied`. Twice is once."""
        supervisor, self._supervisor = self._supervisor, self._supervisor
        if supervisor is not None and not supervisor.done():
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor

    def _submit(self, request: EngineRequest) -> EngineFault | None:
        if not self._healthy:
            raise EngineDied("the engine is not running", retry_after=self._backoff)
        try:
            frame = encode(request)
        except (TypeError, ValueError):
            return EngineFault(code="rejected", message="the request has fields of the wrong type")
        self._send(frame)
        return None

    def _send(self, frame: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(frame)

    async def _supervise(self, started: asyncio.Future[EngineInfo]) -> None:
        """Run the process again and again; the first run decides *started*."""
        try:
            while True:
                try:
                    await self._run_once(started)
                except (ConfigError, OSError) as error:
                    if not started.done():
                        return started.set_exception(error)
                    _log.error("the engine cannot be restarted: %s", error)
                if not started.done():
                    return started.set_exception(EngineDied("the engine's process ended while it loaded the model"))
                _log.error("the engine's process ended; it is restarted in %.1f s", self._backoff)
                await asyncio.sleep(self._backoff)
                self._backoff = min(2 * self._backoff, _BACKOFF[1])
                self._restarts += 1
        finally:
            if not started.done():
                started.cancel()

    async def _run_once(self, started: asyncio.Future[EngineInfo]) -> None:
        """One life of the process, to its end."""
        process = self._process = await _spawn()
        try:
            self._send(encode(Start(self._config)))
            await self._read(process, started)
        finally:
            self._fail_everyone()
            await _end(process)

    async def _read(self, process: Process, started: asyncio.Future[EngineInfo]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                header = await process.stdout.readexactly(HEADER.size)
                message = decode(await process.stdout.readexactly(HEADER.unpack(header)[0]))
                self._hear(message)
                if isinstance(message, Ready) and not started.done():
                    started.set_result(message.info)

    def _suspect(self) -> None:
        """A deadline passed in silence: a step that never ends is ended here, and the supervisor starts anew."""
        if time.monotonic() - self._heard > _SILENCE and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _hear(self, message: Message) -> None:
        self._heard = time.monotonic()
        match message:
            case Step(outputs, load):
                self._load = load
                self._backoff = _BACKOFF[0]
                for output in outputs:
                    if outlet := self._outlets.get(output.request_id):
                        outlet.put(output)
            case Progress(phase):
                self._on_progress(phase)
            case Ready(info):
                self._info = info
                self._load = EngineLoad(slots=info.slots, kv_tokens_total=info.slots * info.context_window)
                self._set_healthy(healthy=True)
            case Refused(text, path):
                raise ConfigError(text, path=path)

    def _set_healthy(self, *, healthy: bool) -> None:
        if healthy != self._healthy:
            self._healthy = healthy
            self._on_health(healthy)

    def _fail_everyone(self) -> None:
        self._set_healthy(healthy=False)
        self._load = replace(self._load, active=0, waiting=0, kv_tokens_used=0)
        for outlet in self._outlets.values():
            outlet.fail(EngineDied("the engine went away in the middle of this answer", retry_after=self._backoff))


async def _spawn() -> Process:
    """The worker, in a process group of its own, so that Ctrl-C in a terminal reaches the front alone."""
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "hybrid_llm.backends.node.worker",
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, **_OFFLINE, "PYTHONPATH": path},
        process_group=0 if os.name == "posix" else None,
    )


async def _end(process: Process) -> None:
    """Kill it, if it lives: it holds nothing that would have to be written or said."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    assert process.stdin is not None
    process.stdin.close()
