"""A node with every door that is fuzzed, in a process of its own: `python -m tests.fuzz.node FOLDER`.

It prints its port; for each line on its standard input it prints, as JSON, what it holds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from pathlib import Path

import psutil

from hybrid_llm.backends.wire.tls import require_tls13

require_tls13()  # before gRPC is imported

from dataclasses import replace  # noqa: E402

from hybrid_llm.backends.audit.spec import AuditSpec  # noqa: E402
from hybrid_llm.backends.node.intake import IntakeLimits  # noqa: E402
from hybrid_llm.backends.node.server import NodeServer  # noqa: E402
from hybrid_llm.backends.wire import TLSFiles  # noqa: E402
from hybrid_llm.policies.rights import RightsFile  # noqa: E402
from tests.backends.wire.fakes import FakeEngine, Node  # noqa: E402

ANSWER = "the answer of the node"


class GrammarEngine(FakeEngine):
    """Claims that it follows schemas, so that those of a request are tried."""

    async def start(self):
        self.info = replace(await super().start(), output_schema=True, logprobs=True)
        return self.info


def held() -> dict[str, float]:
    """Tasks, threads, descriptors, and memory in MB."""
    gc.collect()
    process = psutil.Process()
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
        "rss_mb": process.memory_info().rss / 2**20,
    }


async def main(folder: Path) -> None:
    engine = GrammarEngine(ANSWER, slots=8, logprobs=True)
    # The fuzzer cancels and breaks off all the time: this node does not close its connection for that.
    node = Node(
        TLSFiles.from_dir(folder, "node"), engine, sealed=folder / "sealing", rights=RightsFile(folder / "rights.yaml"),
        audit=AuditSpec(file=folder / "audit.db", key=folder / "audit.key", name="node"), max_deadline=5.0,
        intake=IntakeLimits(max_faults=10**6),
    )  # fmt: skip
    node.loop.close()
    server = NodeServer(node.config, engine, tokenizer=node.server._tokenizer)
    print(await server.start(), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(held()), flush=True)
    await server.stop(0.2)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(Path(sys.argv[1])))
