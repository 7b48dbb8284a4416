"""A node as `hybrid-llm serve` runs it, in processes of its own, and a client that floods it, in another one."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil

from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.core.clearance import Cleared, _make_cleared
from hybrid_llm.core.request import Location, Message, Request
from tests.endless import endless

_SCHEDULED = 2
"""The clock of a process, of all its threads, as clock_getcpuclockid(3) makes it."""


@dataclass(frozen=True, slots=True)
class Load:
    """*count* requests at a time, of so many tokens of *prompt* and of *answer*."""

    count: int
    prompt: int
    answer: int

    def request(self, number: int) -> Cleared:
        """One of them; what it has in common with the others is too short to be reused."""
        text = f"{number} " + "a train " * max((self.prompt - 16) // 2, 0)
        message = Message(role="user", content=text)
        request = Request(messages=(message,), max_tokens=self.answer, deadline=600.0)
        return _make_cleared(request, Location.CLOUD)


class Served:
    """A node over a copy of *model* whose answers have their full length; a context manager."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._stack = ExitStack()
        self._numbers = itertools.count(1_000_000)

    def __enter__(self) -> Served:
        with self._stack:
            self._start(Path(self._stack.enter_context(tempfile.TemporaryDirectory())))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, folder: Path) -> None:
        self._tls, ready = folder / "tls", folder / "ready"
        make_authority(self._tls)
        issue(self._tls, "node", kind="node", hosts=("127.0.0.1",))
        for name in ("honest", "flood"):
            issue(self._tls, name)
        model = endless(self._model, folder / "model")
        options = {"model": model, "tls": self._tls, "listen": "127.0.0.1:0", "ready-file": ready, "threads": 1}
        options |= {"kv-tokens": 16 * 2048, "weight": "honest=1"}
        command = [sys.executable, "-m", "hybrid_llm.cli.main", "serve", "--quiet"]
        front = self._begin([*command, *(f"--{name}={value}" for name, value in options.items())])
        while not ready.exists():
            if front.poll() is not None:
                raise SystemExit("the node did not start")
            time.sleep(0.1)
        self._target = f"127.0.0.1:{ready.read_text('ascii').strip()}"
        engine = next(child for child in psutil.Process(front.pid).children() if "-m" in child.cmdline())
        self._pids = (front.pid, engine.pid)
        self._honest = client(self._target, self._tls, "honest")
        self._stack.callback(self._honest.close)

    def _begin(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process

    def flood(self, load: Load) -> None:
        """Let another client send *load* from now on."""
        numbers = [str(number) for number in astuple(load)]
        self._begin([sys.executable, "-m", "benchmarks._served", self._target, str(self._tls), *numbers])

    def seconds(self, load: Load) -> float:
        """Seconds of the processor, front and engine together, until the honest client has its next answer."""
        time.sleep(0.2)
        begun = self._used()
        chunks = list(self._honest.stream(load.request(next(self._numbers))))
        used = self._used() - begun
        assert sum(chunk.tokens for chunk in chunks) == load.answer
        return used

    def _used(self) -> float:
        return sum(time.clock_gettime((~pid << 3) | _SCHEDULED) for pid in self._pids)


def client(target: str, tls: Path, name: str) -> GrpcBackend:
    """A client of the node at *target* with the certificate *name*."""
    return GrpcBackend(GrpcConfig(target=target, tls=TLSFiles.from_dir(tls, name)))


async def _flood(target: str, tls: str, *load: str) -> None:
    sent, numbers = Load(*map(int, load)), itertools.count()
    backend = client(target, Path(tls), "flood")

    async def ask() -> None:
        while True:
            async for _ in backend.astream(sent.request(next(numbers))):
                pass

    await asyncio.gather(*(ask() for _ in range(sent.count)))


if __name__ == "__main__":
    asyncio.run(_flood(*sys.argv[1:]))
