"""The engine's own process: `python -m hybrid_llm.backends.node.worker`, started by `EngineProcess` and by nobody else.

Commands come on standard input, news goes out on standard output. It ends at once when its input ends, which is also
what the death of the front looks like.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from typing import BinaryIO

from hybrid_llm.backends.node.engine import Engine, EngineConfig, EngineRequest
from hybrid_llm.backends.node.engines.folder import check_folder
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
    """Load the engine that the first command names, and serve it until the front goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outbox = _take_stdout()
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(inbox,), name="commands", daemon=True).start()
    start = inbox.get()
    if not isinstance(start, Start):
        raise SystemExit("start this through EngineProcess")
    try:
        engine = _load(start.config, outbox)
    except ConfigError as error:
        return _tell(outbox, Refused(str(error), error.path))
    except ImportError as error:
        remedy = f"the node needs {error.name}: pip install 'hybrid-llm[node]'"
        return _tell(outbox, Refused(remedy, None))
    _tell(outbox, Ready(engine.info))
    _serve(engine, inbox, outbox)
    return None


def _take_stdout() -> BinaryIO:
    """Standard output for frames only: what a library prints goes to standard error."""
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


def _load(config: EngineConfig, outbox: BinaryIO) -> Engine:
    _tell(outbox, Progress("checking the model folder"))
    check_folder(config.model)
    _tell(outbox, Progress("importing torch"))
    from hybrid_llm.backends.node.engines.load import load_engine

    return load_engine(config, lambda phase: _tell(outbox, Progress(phase)))


def _serve(engine: Engine, inbox: Inbox, outbox: BinaryIO) -> None:
    while True:
        if engine.idle:
            _obey(engine, inbox.get())
        while not inbox.empty():
            _obey(engine, inbox.get())
        outputs = engine.step()
        if outputs or engine.idle:
            _tell(outbox, Step(tuple(outputs), engine.load()))


def _obey(engine: Engine, message: ToEngine) -> None:
    if isinstance(message, EngineRequest):
        engine.submit(message)
    elif isinstance(message, Abort):
        engine.abort(message.request_id)


def _tell(outbox: BinaryIO, message: FromEngine) -> None:
    try:
        outbox.write(encode(message))
        outbox.flush()
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
