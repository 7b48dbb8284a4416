"""The engine's process, `python -m hybrid_llm.backends.node.worker`; only `EngineProcess` starts it.

It reads commands from standard input and writes messages to standard output. It exits as soon as its input ends, which
includes a crash of the supervisor.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from typing import TYPE_CHECKING, BinaryIO

from hybrid_llm.backends.node import ipc
from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
from hybrid_llm.backends.node.engines import check_folder
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

if TYPE_CHECKING:
    from hybrid_llm.backends.node.engines.loop import LoopEngine

Inbox = queue.SimpleQueue[ipc.ToEngine]


def main() -> None:
    """Load the engine that the first command configures, and run it until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    outbox = _take_stdout()
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(inbox,), name="commands", daemon=True).start()
    start = inbox.get()
    if not isinstance(start, ipc.Start):
        raise SystemExit("start this through EngineProcess")
    try:
        engine = _load(start.config, outbox)
    except ConfigError as error:
        _send(outbox, ipc.Refused(str(error), error.path))
    except ImportError as error:
        _send(outbox, ipc.Refused(f"the node needs {error.name}: {install_hint('node')}", None))
    else:
        _send(outbox, ipc.Ready(engine.info))
        _serve(engine, inbox, outbox)


def _take_stdout() -> BinaryIO:
    """Reserve standard output for frames: what libraries print goes to standard error."""
    outbox = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return outbox


def _read_commands(inbox: Inbox) -> None:
    stream = os.fdopen(0, "rb", closefd=False)
    try:
        while header := stream.read(ipc.HEADER.size):
            message = ipc.decode(stream.read(ipc.HEADER.unpack(header)[0]))
            assert isinstance(message, ipc.ToEngine)
            inbox.put(message)
    finally:
        os._exit(0)


def _load(config: EngineConfig, outbox: BinaryIO) -> LoopEngine:
    _send(outbox, ipc.Progress("checking the model folder"))
    check_folder(config.model)
    _send(outbox, ipc.Progress("importing torch"))
    from hybrid_llm.backends.node.engines.load import load_engine

    return load_engine(config, lambda phase: _send(outbox, ipc.Progress(phase)))


def _serve(engine: LoopEngine, inbox: Inbox, outbox: BinaryIO) -> None:
    while True:
        if engine.idle:
            _execute(engine, inbox.get())
        while not inbox.empty():
            _execute(engine, inbox.get())
        outputs = engine.step()
        if outputs or engine.idle:
            _send(outbox, ipc.Step(tuple(outputs), engine.load()))


def _execute(engine: LoopEngine, message: ipc.ToEngine) -> None:
    if isinstance(message, EngineRequest):
        engine.submit(message)
    elif isinstance(message, ipc.Abort):
        engine.abort(message.request_id)


def _send(outbox: BinaryIO, message: ipc.FromEngine) -> None:
    try:
        outbox.write(ipc.encode(message))
        outbox.flush()
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
