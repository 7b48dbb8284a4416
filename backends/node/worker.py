"""The engine's process, `python -m hybrid_llm.backends.node.worker`; only `EngineProcess` starts it.

It reads commands from standard input and writes messages to standard output. It exits as soon as its input ends, which
includes a crash of the supervisor.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from typing import BinaryIO

from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest, StepEngine
from hybrid_llm.backends.node.engines import check_folder
from hybrid_llm.backends.node.ipc import (
    HEADER,
    Abort,
    FromEngine,
    Progress,
    Ready,
    Refused,
    Start,
    Step,
    ToEngine,
    decode,
    encode,
)
from hybrid_llm.core.errors import ConfigError

Inbox = queue.SimpleQueue[ToEngine]


def main() -> None:
    """Load the engine that the first command configures, and run it until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    outbox = _take_stdout()
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(inbox,), name="commands", daemon=True).start()
    start = inbox.get()
    if not isinstance(start, Start):
        raise SystemExit("start this through EngineProcess")
    try:
        engine = _load(start.config, outbox)
    except ConfigError as error:
        return _send(outbox, Refused(str(error), error.path))
    except ImportError as error:
        remedy = f"the node needs {error.name}: pip install 'hybrid-llm[node]'"
        return _send(outbox, Refused(remedy, None))
    _send(outbox, Ready(engine.info))
    _serve(engine, inbox, outbox)
    return None


def _take_stdout() -> BinaryIO:
    """Reserve standard output for frames: what libraries print goes to standard error."""
    outbox = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return outbox


def _read_commands(inbox: Inbox) -> None:
    stream = os.fdopen(0, "rb", closefd=False)
    try:
        while header := stream.read(HEADER.size):
            message = decode(stream.read(HEADER.unpack(header)[0]))
            assert isinstance(message, Start | EngineRequest | Abort)
            inbox.put(message)
    finally:
        os._exit(0)


def _load(config: EngineConfig, outbox: BinaryIO) -> StepEngine:
    _send(outbox, Progress("checking the model folder"))
    check_folder(config.model)
    _send(outbox, Progress("importing torch"))
    from hybrid_llm.backends.node.engines.load import load_engine

    return load_engine(config, lambda phase: _send(outbox, Progress(phase)))


def _serve(engine: StepEngine, inbox: Inbox, outbox: BinaryIO) -> None:
    while True:
        if engine.idle:
            _execute(engine, inbox.get())
        while not inbox.empty():
            _execute(engine, inbox.get())
        outputs = engine.step()
        if outputs or engine.idle:
            _send(outbox, Step(tuple(outputs), engine.load()))


def _execute(engine: StepEngine, message: ToEngine) -> None:
    if isinstance(message, EngineRequest):
        engine.submit(message)
    elif isinstance(message, Abort):
        engine.abort(message.request_id)


def _send(outbox: BinaryIO, message: FromEngine) -> None:
    try:
        outbox.write(encode(message))
        outbox.flush()
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
