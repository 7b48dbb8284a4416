"""The engine's process, `python -m hybrid_llm.backends.node.worker`; only `EngineProcess` starts it.

It reads commands from standard input and writes messages to standard output. It exits as soon as its input ends, which
includes a crash of the supervisor. A thread of its own reports each second how far the engine has come.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

from hybrid_llm.backends.adapters import verify_signatures
from hybrid_llm.backends.node import ipc
from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
from hybrid_llm.backends.node.engines import check_folder
from hybrid_llm.backends.node.liveness import PULSE_S, Pulse
from hybrid_llm.core.errors import ConfigError, UntrustedModel
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.threads import started

if TYPE_CHECKING:
    from hybrid_llm.backends.node.engines.loop import LoopEngine

Inbox = queue.SimpleQueue[ipc.ToEngine]


class Outbox:
    """Standard output, reserved for frames: what libraries print goes to standard error. Thread-safe."""

    def __init__(self) -> None:
        self._stream: BinaryIO = os.fdopen(os.dup(1), "wb")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def send(self, message: ipc.FromEngine) -> None:
        """Write a message; ends the process if nobody reads."""
        frame = ipc.encode(message)
        try:
            with self._lock:
                self._stream.write(frame)
                self._stream.flush()
        except BrokenPipeError:
            os._exit(0)


class Odometer:
    """How far the engine has come. The engine's thread writes it, the pulses read it."""

    def __init__(self) -> None:
        self.beats = 0
        self.busy = True

    def beat(self) -> None:
        """Count a command, a step, or a layer of the model."""
        self.beats += 1

    def report(self, outbox: Outbox) -> None:
        """Send a pulse each second, for ever."""
        while True:
            outbox.send(Pulse(self.beats, self.busy))
            time.sleep(PULSE_S)


def main() -> None:
    """Load the engine that the first command configures, and run it until standard input ends."""
    for name in ("SIGINT", "SIGHUP"):  # both reach the whole group of processes, and are the supervisor's business
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    outbox, odometer = Outbox(), Odometer()
    inbox: Inbox = queue.SimpleQueue()
    try:
        started(_read_commands, inbox, name="commands")
        started(odometer.report, outbox, name="pulse")
    except RuntimeError as error:
        raise SystemExit(f"the engine's process can start no thread ({error}): raise its limit of threads") from None
    start = inbox.get()
    if not isinstance(start, ipc.Start):
        raise SystemExit("start this through EngineProcess")
    try:
        engine = _load(start.config, outbox, odometer)
    except (ConfigError, UntrustedModel) as error:
        outbox.send(ipc.Refused.of(error))
    except ImportError as error:
        outbox.send(ipc.Refused(f"the node needs {error.name}: {install_hint('node')}", None))
    else:
        outbox.send(ipc.Ready(engine.info))
        _serve(engine, inbox, outbox, odometer)


def _read_commands(inbox: Inbox) -> None:
    stream = os.fdopen(0, "rb", closefd=False)
    try:
        while header := stream.read(ipc.HEADER.size):
            message = ipc.decode(stream.read(ipc.HEADER.unpack(header)[0]))
            assert isinstance(message, ipc.ToEngine)
            inbox.put(message)
    finally:
        os._exit(0)


def _load(config: EngineConfig, outbox: Outbox, odometer: Odometer) -> LoopEngine:
    if config.trust is not None:
        outbox.send(ipc.Progress("verifying the signature of the model"))
        verify_signatures(config.model, config.trust)
    outbox.send(ipc.Progress("checking the model folder"))
    check_folder(config.model)
    outbox.send(ipc.Progress("importing torch"))
    from hybrid_llm.backends.node.engines.load import load_engine

    return load_engine(config, lambda phase: outbox.send(ipc.Progress(phase)), on_layer=odometer.beat)


def _serve(engine: LoopEngine, inbox: Inbox, outbox: Outbox, odometer: Odometer) -> None:
    while True:
        odometer.busy = not engine.idle
        if engine.idle:
            _execute(engine, inbox.get())
            odometer.busy = True
        while not inbox.empty():
            _execute(engine, inbox.get())
        outputs = engine.step()
        odometer.beat()
        if outputs or engine.idle:
            outbox.send(ipc.Step(tuple(outputs), engine.load()))


def _execute(engine: LoopEngine, message: ipc.ToEngine) -> None:
    if isinstance(message, EngineRequest):
        engine.submit(message)
    elif isinstance(message, ipc.Abort):
        engine.abort(message.request_id)


if __name__ == "__main__":
    main()
