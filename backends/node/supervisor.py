"""Runs an engine in a child process and restarts it when it crashes or hangs. No torch in this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Final

from hybrid_llm.backends.node import children, ipc
from hybrid_llm.backends.node.engine import (
    EngineConfig,
    EngineDied,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
    FaultCode,
)
from hybrid_llm.backends.node.liveness import Liveness, ProgressMonitor, Pulse
from hybrid_llm.core.errors import ConfigError, SecurityError

_log = logging.getLogger(__name__)
_BACKOFF = (0.5, 30.0)
"""Seconds before the first restart, and the maximum; each restart doubles them."""
_GRACE = 1.0
"""Seconds after a request's deadline at which the supervisor ends it if the engine has not."""
_WATCH_S = 0.5
"""Seconds between two looks at the engine's progress."""
_OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
Progress = Callable[[str], None]


async def _ready_at_once(config: EngineConfig, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The program of an engine's process: it speaks the messages of `ipc` over its standard input and output."""

    arguments: tuple[str, ...] = ("-m", "hybrid_llm.backends.node.worker")
    """Of Python."""
    python: Path | None = None
    """The Python of another environment, which finds no package of ours; None for our own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those that keep libraries from any network."""
    prepare: Callable[[EngineConfig, Progress], Awaitable[None]] = _ready_at_once
    """Called before each start: it checks here what the process cannot check, and raises as `EngineProcess.start`."""


class EngineProcess:
    """The `Engine` in a child process, restarted with backoff when it crashes, and killed when it makes no progress.

    *on_health* is called with True when the engine can take requests, and with False when it no longer can;
    *on_progress* with each phase of loading. *worker* is the program that runs in it. Use it in one
    event loop; `close` it, or use `async with`.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_health: Callable[[bool], None] | None = None,
        *,
        on_progress: Progress | None = None,
        worker: Worker = Worker(),
    ) -> None:
        self._config = config
        self._on_health = on_health or (lambda _: None)
        self._on_progress = on_progress or (lambda _: None)
        self._worker = worker
        self._process: Process | None = None
        self._monitor = ProgressMonitor(config.limits)
        self._supervisor: asyncio.Task[None] | None = None
        self._queues: dict[str, OutputQueue] = {}
        self._ids = count()
        self._load = EngineLoad()
        self._backoff = _BACKOFF[0]
        self._ready = False
        self.info: EngineInfo | None = None
        """The loaded model; None until `start` has returned."""
        self.healthy = False
        """Whether the engine can take a request now."""
        self.restarts = 0
        """How often the process was restarted."""

    async def __aenter__(self) -> EngineProcess:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id; None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> EngineInfo:
        """Start the process and wait until its model is loaded.

        Raises:
            ConfigError: the folder or an option is unusable; the message says what to do.
            UntrustedModel: the model is not what a trusted signer signed.
            EngineDied: the process crashed while it loaded, or `start` was called before.
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

        Outputs that the caller has not read yet are merged into one.

        Raises:
            EngineDied: the engine is not running, or crashed.
        """
        if not self.healthy:
            state = "does not respond" if self._ready else "is not running"
            raise EngineDied(f"the engine {state}", retry_after=self._backoff)
        number = str(next(self._ids))
        try:
            sampling = replace(request.sampling, stop=())  # the servicer applies stop texts; they stay with it
            self._send(replace(request, request_id=number, sampling=sampling))
        except (TypeError, ValueError):
            yield _fault(request.request_id, "rejected", "the request has fields of the wrong type")
            return
        outputs = self._queues[number] = OutputQueue(request.request_id)
        try:
            while not (output := await self._take(outputs, request)).last:
                yield output
            yield output
        finally:
            del self._queues[number]
            if not outputs.finished:
                self._send(ipc.Abort(number))

    def load(self) -> EngineLoad:
        """How busy it was at its last step; no I/O."""
        return self._load

    async def close(self) -> None:
        """Stop the process; streams in flight end with `EngineDied`. Idempotent."""
        if self._supervisor is not None and not self._supervisor.done():
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor

    async def _take(self, outputs: OutputQueue, request: EngineRequest) -> EngineOutput:
        """The next outputs of *request*, or a deadline fault if the engine has not ended it in time."""
        try:
            return await outputs.take(request.expires + _GRACE)
        except TimeoutError:
            return _fault(request.request_id, "deadline", "the deadline passed without an answer of the engine")

    def _send(self, message: ipc.ToEngine) -> None:
        frame, process = ipc.encode(message), self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(frame)

    async def _supervise(self, started: asyncio.Future[EngineInfo]) -> None:
        """Run the process and restart it whenever it ends; the first run resolves *started*."""
        try:
            while True:
                try:
                    await self._run_once(started)
                except (ConfigError, SecurityError, OSError) as error:
                    if not started.done():
                        return started.set_exception(error)
                    _log.error("the engine cannot be restarted: %s", error)
                if not started.done():
                    return started.set_exception(EngineDied("the engine's process crashed while it loaded the model"))
                _log.error("the engine's process crashed; it is restarted in %.1f s", self._backoff)
                await asyncio.sleep(self._backoff)
                self._backoff = min(2 * self._backoff, _BACKOFF[1])
                self.restarts += 1
        finally:
            if not started.done():
                started.cancel()

    async def _run_once(self, started: asyncio.Future[EngineInfo]) -> None:
        worker = self._worker
        await worker.prepare(self._config, self._on_progress)
        process = self._process = await children.spawn(
            worker.arguments, python=worker.python, environment=_OFFLINE | dict(worker.environment)
        )
        self._monitor = ProgressMonitor(self._config.limits)
        reading = asyncio.create_task(self._read(process, started), name="engine-outputs")
        watch = asyncio.create_task(self._watch(process), name="engine-watch")
        try:
            self._send(ipc.Start(self._config))
            # What it holds open may outlive it, or its kill: one that was killed as hung is not read to its end.
            await asyncio.wait((reading, watch), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                await reading
        finally:
            reading.cancel()
            watch.cancel()
            self._fail_all()
            await children.end(process)

    async def _read(self, process: Process, started: asyncio.Future[EngineInfo]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                header = await process.stdout.readexactly(ipc.HEADER.size)
                message = ipc.decode(await process.stdout.readexactly(ipc.HEADER.unpack(header)[0]))
                self._receive(message)
                if isinstance(message, ipc.Ready) and not started.done():
                    started.set_result(message.info)

    async def _watch(self, process: Process) -> None:
        """Report an engine without progress as unhealthy, then kill it, so that it is restarted."""
        while True:
            await asyncio.sleep(_WATCH_S)
            # A look that comes late, since this loop or the machine stood still, counts as one in time.
            state = self._monitor.elapse(_WATCH_S)
            if state is Liveness.HUNG:
                _log.error("the engine's process %d makes no progress; it is killed", process.pid)
                return children.kill(process)
            if self.healthy and state is Liveness.SUSPECTED:
                _log.warning("the engine's process %d makes no progress; new requests are refused", process.pid)
                self._set_healthy(healthy=False)
                self._return_unbegun()
            elif self._ready and state is Liveness.ALIVE:
                self._set_healthy(healthy=True)

    def _receive(self, message: ipc.Message) -> None:
        match message:
            case Pulse():
                self._monitor.pulse(message, wanted=any(not outputs.finished for outputs in self._queues.values()))
            case ipc.Step(step_outputs, load):
                self._load = load
                self._backoff = _BACKOFF[0]
                for output in step_outputs:
                    if outputs := self._queues.get(output.request_id):
                        outputs.put(output)
            case ipc.Progress(phase):
                self._on_progress(phase)
            case ipc.Ready(info):
                self.info = info
                self._ready = True
                self._monitor.loaded()
                self._load = EngineLoad(slots=info.slots, kv_tokens_total=info.kv_tokens)
                self._set_healthy(healthy=True)
            case ipc.Refused():
                raise message.error

    def _set_healthy(self, *, healthy: bool) -> None:
        if healthy != self.healthy:
            self.healthy = healthy
            self._on_health(healthy)

    def _return_unbegun(self) -> None:
        """End the requests of which nothing is answered yet, so that their clients can go elsewhere; others wait."""
        for number, outputs in self._queues.items():
            if not outputs.begun:
                self._monitor.returned()
                outputs.fail(EngineDied("the engine makes no progress", retry_after=self._backoff))
                self._send(ipc.Abort(number))

    def _fail_all(self) -> None:
        self._ready = False
        self._set_healthy(healthy=False)
        self._load = replace(self._load, active=0, waiting=0, kv_tokens_used=0)
        for outputs in self._queues.values():
            outputs.fail(EngineDied("the engine crashed in the middle of this answer", retry_after=self._backoff))


class OutputQueue:
    """The unread outputs of one request, merged into one, so that a slow reader costs no memory. One reader.

    Outputs are read before a failure is raised.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._output: EngineOutput | None = None
        self._failure: EngineDied | None = None
        self._changed = asyncio.Event()
        self.begun = False
        """The engine has sent an output."""
        self.finished = False
        """The engine has sent the last output, or has failed."""

    def put(self, output: EngineOutput) -> None:
        """Add an output; those after the last one are ignored."""
        if not self.finished:
            self.begun, self.finished = True, output.last
            token_ids, scores = output.token_ids, output.scores
            if self._output is not None:
                token_ids, scores = self._output.token_ids + token_ids, self._output.scores + scores
            self._output = replace(output, request_id=self._request_id, token_ids=token_ids, scores=scores)
            self._changed.set()

    def fail(self, failure: EngineDied) -> None:
        """Raise *failure* to the reader once all outputs are read."""
        if not self.finished:
            self.finished = True
            self._failure = failure
            self._changed.set()

    async def take(self, expires: float = math.inf) -> EngineOutput:
        """Wait for outputs and return all since the last call, merged into one.

        Raises:
            EngineDied: the engine crashed.
            TimeoutError: there was none when `time.monotonic()` reached *expires*.
        """
        left = expires - time.monotonic()
        async with asyncio.timeout(left if math.isfinite(left) else None):
            await self._changed.wait()
        output, self._output = self._output, None
        if output is None:
            assert self._failure is not None
            raise self._failure
        if self._failure is None:
            self._changed.clear()
        return output


def _fault(request_id: str, code: FaultCode, message: str) -> EngineOutput:
    return EngineOutput(request_id=request_id, error=EngineFault(code=code, message=message))
