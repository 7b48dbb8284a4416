"""A real node over the exact engine, in a process of its own: `python -m tests.chaos.node TLS LISTEN JOURNAL SLOTS`.

Everything but the engine is what `hybrid-llm serve` runs: listener, TLS, admission, front, a graceful end at SIGTERM.
"""

import asyncio
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from hybrid_llm.backends.node.handshakes import logged_handshakes
from hybrid_llm.backends.node.server import NodeConfig, NodeServer
from hybrid_llm.backends.wire.tls import require_tls13

require_tls13()
stack = ExitStack()
stack.enter_context(logged_handshakes())

from hybrid_llm.backends.node.engine import EngineConfig  # noqa: E402
from hybrid_llm.backends.wire import TLSFiles  # noqa: E402
from tests.chaos.exact import ExactEngine  # noqa: E402


async def main(tls: str, listen: str, journal: str, slots: str, queue: str, first_s: str, step_s: str) -> None:
    with Path(journal).open("a", buffering=1) as log:
        engine = ExactEngine(
            slots=int(slots),
            first_s=float(first_s),
            step_s=float(step_s),
            tell=lambda *told: print(*told, sep="\t", file=log),
        )
        config = NodeConfig(
            engine=EngineConfig(model=Path("unused")),
            tls=TLSFiles.from_dir(tls, "node"),
            listen=listen,
            max_queue=int(queue),
        )
        server = NodeServer(config, engine, tokenizer=engine.tokenizer)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, engine.toggle_healthy)
        loop.add_signal_handler(signal.SIGUSR2, engine.toggle_failing)
        await server.serve_forever(grace=10.0, on_ready=lambda port: print(f"PORT {port}", flush=True))


with stack:
    asyncio.run(main(*sys.argv[1:]))
