"""The engine's process, `python -m hybrid_llm.backends.node.worker`; only `EngineProcess` starts it.

It reads commands from standard input and writes messages to standard output. It exits as soon as its input ends, which
includes a crash of the supervisor. A thread of its own reports each second how far the engine has come.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from hybrid_llm.backends.adapters import verify_signatures
from hybrid_llm.backends.node import ipc
from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
from hybrid_llm.backends.node.engines import check_adapters, check_folder
from hybrid_llm.backends.node.pipes import Odometer, Outbox, ignore_terminal, read_commands
from hybrid_llm.core.errors import ConfigError, UntrustedModel
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.threads import started

if TYPE_CHECKING:
    from hybrid_llm.backends.node.engines.loop import LoopEngine

Inbox = queue.SimpleQueue[ipc.ToEngine]


def main() -> None:
    """Load the engine that the first command configures, and run it until standard input ends."""
    ignore_terminal()
    outbox, odometer = Outbox(), Odometer()
    inbox: Inbox = queue.SimpleQueue()
    try:
        started(read_commands, inbox.put, name="commands")
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


def _load(config: EngineConfig, outbox: Outbox, odometer: Odometer) -> LoopEngine:
    if config.trust is not None:
        outbox.send(ipc.Progress("verifying the signature of the model"))
        verify_signatures(config.model, config.trust, config.adapters.values())
    outbox.send(ipc.Progress("checking the model folder"))
    check_folder(config.model)
    check_adapters(config)
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
