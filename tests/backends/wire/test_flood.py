"""Two clients with certificates of their own on a node with the packed engine, over gRPC: one floods, the other asks.

What is counted is the order in which answers end, and never seconds.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines import ENGINES
from hybrid_llm.backends.text import ChatTokenizer
from tests.endless import endless as make_endless

pytest.importorskip("torch")
MODEL = Path(__file__).resolve().parents[3] / "examples" / "models" / "hybrid-demo-node"
SLOTS, COUNT = 16, 40


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """The demonstration model with an end-of-text token that it never generates: answers have their full length."""
    return make_endless(MODEL, tmp_path_factory.mktemp("model") / "endless")


@pytest.fixture(scope="module")
def flooded(endless, pki):
    from tests.backends.wire.fakes import Node

    class Loading(Node):
        def do(self, coroutine):
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(300)

    config = EngineConfig(model=endless, engine="packed", threads=1, max_slots=SLOTS, kv_tokens=SLOTS * 2048)
    engine = ENGINES.get("packed")(config, on_progress=lambda _: None)
    with Loading(pki.node, engine, ChatTokenizer.load(endless)) as node:
        yield node


class Flood:
    """*COUNT* requests at a time of one client, each followed by the next; counts the answers that ended."""

    def __init__(self, tools, cloud, prompt, answer):
        self._tools, self._cloud, self._prompt, self._answer = tools, cloud, prompt, answer
        self.began = self.ended = 0
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(COUNT)]

    async def _ask(self, number):
        while True:
            number += COUNT
            text = f"{number} " + "a train " * self._prompt
            async with aclosing(self._cloud.astream(self._tools.cleared(text, **self._options))) as chunks:
                first = True
                async for _ in chunks:
                    self.began += first
                    first = False
            self.ended += 1

    @property
    def _options(self):
        return {"max_tokens": self._answer, "deadline": 300.0}

    async def busy(self):
        """Wait until the node works on the flood and more of it waits."""
        while not self.began:
            await asyncio.sleep(0.01)

    async def stop(self):
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task


@pytest.mark.parametrize(
    ("prompt", "answer"), [(480, 4), (4, 500)], ids=["prompts of 1,000 tokens", "answers of 500 tokens"]
)
def test_another_client_is_served_before_the_requests_that_waited_before_it(flooded, tools, pki, prompt, answer):
    """In the order of arrival, 24 answers of the flood would end before the other client has its first token."""

    async def main():
        rogue, app = (tools.backend(flooded.target, files) for files in (pki.rogue, pki.app))
        flood = Flood(tools, rogue, prompt, answer)
        await flood.busy()
        ended_meanwhile = []
        for number in range(2):
            before = flood.ended
            chunks = await tools.collect(app.astream(tools.cleared(f"{number} count", max_tokens=24, deadline=300.0)))
            assert sum(chunk.tokens for chunk in chunks) == 24
            ended_meanwhile.append(flood.ended - before)
        await flood.stop()
        for cloud in (rogue, app):
            await cloud.aclose()
        return ended_meanwhile

    ended = asyncio.run(main())
    assert max(ended) < (COUNT - SLOTS) / 2, ended
