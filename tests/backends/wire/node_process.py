"""Runs a node over the fake engine in a process of its own: `python node_process.py FOLDER DELAY LISTEN`."""

import asyncio
import importlib.util
import logging
import sys
from pathlib import Path

from hybrid_llm.backends.node.server import NodeConfig, NodeServer

assert "grpc" not in sys.modules, "the node module must not import gRPC by itself"
from hybrid_llm.backends.wire.tls import require_tls13  # noqa: E402

require_tls13()

spec = importlib.util.spec_from_file_location("wire_fakes", Path(__file__).with_name("fakes.py"))
fakes = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = fakes
spec.loader.exec_module(fakes)


async def main(folder, delay, listen):
    logging.basicConfig(level=logging.INFO)
    engine = fakes.FakeEngine("x" * 300, delay=float(delay), slots=64)
    config = NodeConfig(
        engine=fakes.EngineConfig(model=Path("unused")), tls=fakes.TLSFiles.from_dir(folder, "node"), listen=listen
    )
    server = NodeServer(config, engine, tokenizer=fakes.byte_tokenizer())
    await server.serve_forever(grace=5.0, on_ready=lambda port: print(f"PORT {port}", flush=True))
    print("ENDED", flush=True)


asyncio.run(main(*sys.argv[1:]))
