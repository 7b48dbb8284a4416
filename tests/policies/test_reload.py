"""200 reloads under load: no request fails, no broken policy decides, and every answer names a policy in force."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import Location
from hybrid_llm.policies import Policy, PolicyFile, parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

RELOADS = 200
HEAD = "version: 1\nname: {name}\ntags: {{public: {{allow: [edge, cloud]}}}}\n"
GOOD = HEAD + "rules:\n  - prefer: [{first}, {second}]\n    because: {name}\n"
BROKEN = [
    b"",
    b"version: 1\nname: [\n",
    b"version: 1\nname: \xff\n",
    b"version: 2\nname: later\n",
    (HEAD.format(name="lost") + "rules: [{prefer: nobody}]\n").encode(),
    (HEAD.format(name="lost") + "rules: [{exclude: edge, when: request.max_tokens < 0}]\n").encode(),
    (HEAD.format(name="lost") + "rules: [{prefer: edge}, {prefer: cloud}]\n").encode(),
    (HEAD.format(name="lost") + "rules: [{exclude: edge, when: 'device.battery < 20%'}]\n").encode(),
]


@dataclass
class Load:
    """Callers in threads and tasks, and what each of them got."""

    llm: HybridLLM
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[float, float, Generation]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def in_thread(self) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                reply = self.llm.generate("Hello?", privacy={"public"})
                self.answers.append((began, time.monotonic(), reply))
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test must show it
                self.failures.append(error)
            time.sleep(0.005)

    def in_tasks(self) -> None:
        asyncio.run(self._tasks())

    async def _tasks(self) -> None:
        await asyncio.gather(*(self._task() for _ in range(4)))

    async def _task(self) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                reply = await self.llm.agenerate("Hello?", privacy={"public"})
                self.answers.append((began, time.monotonic(), reply))
            except BaseException as error:  # noqa: BLE001 - as above
                self.failures.append(error)
            await asyncio.sleep(0.01)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.001)


def put(path: Path, content: bytes, turn: int) -> None:
    """As an editor does, in place, or as a deployment does, by a rename."""
    if turn % 4 < 2:
        path.write_bytes(content)
        return
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)


def test_200_reloads_under_load(tmp_path):
    path = tmp_path / "policy.yaml"
    sides = itertools.cycle([("edge", "cloud"), ("cloud", "edge")])

    def good(turn: int) -> str:
        first, second = next(sides)
        return GOOD.format(name=f"p{turn}", first=first, second=second)

    text = good(0)
    path.write_text(text)
    digests = [parse_policy(text).digest]
    firsts = {digests[0]: "edge"}
    written, in_force = {digests[0]: time.monotonic()}, {digests[0]: time.monotonic()}

    def came(policy: Policy) -> None:
        in_force[policy.digest] = time.monotonic()

    source = PolicyFile(path, interval=0.002, on_reload=came)
    backends = [FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)]
    with HybridLLM(backends, source, sensors=FixedSensors()) as llm:
        source.start()
        load = Load(llm)
        threads = [threading.Thread(target=work) for work in (load.in_thread, load.in_thread, load.in_tasks)]
        for thread in threads:
            thread.start()
        for turn in range(1, RELOADS + 1):
            if turn % 2:
                before = llm.policy.digest
                put(path, BROKEN[turn // 2 % len(BROKEN)], turn)
                wait_for(lambda: source.error is not None)
                assert llm.policy.digest == before
                continue
            text = good(turn)
            digests.append(parse_policy(text).digest)
            firsts[digests[-1]] = parse_policy(text).rules[0].targets[0]
            written[digests[-1]] = time.monotonic()
            put(path, text.encode(), turn)
            wait_for(lambda: llm.policy.digest == digests[-1] and source.error is None)
        load.stop.set()
        for thread in threads:
            thread.join()

    assert load.failures == []
    assert list(in_force) == digests, "each good policy came into force once, in its turn, and nothing else did"
    # On a busy machine one may take longer.
    assert median(in_force[digest] - written[digest] for digest in digests) < 1.0
    until = dict(zip(digests, [in_force[digest] for digest in digests[1:]] + [float("inf")], strict=True))
    for began, ended, reply in load.answers:
        digest = reply.decision.digest
        assert written[digest] <= ended, "it was decided by a policy that was not written yet"
        assert began <= until[digest], "it was decided by a policy that another one had replaced before"
        assert reply.backend == firsts[digest], "the answer came from where that policy sends it"
    assert len({reply.decision.digest for *_, reply in load.answers}) > RELOADS // 10
