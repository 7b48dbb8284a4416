"""Clients with a valid certificate that mean harm, or do not know what they do: `python -m tests.chaos.hostile`.

Each attack runs in a process of its own against one node, while an honest client of another identity asks. Beside it
stands a control: a process that burns the processor time of the attacker, and what the attack costs the node's front
beyond that of a quiet node, and sends nothing.

Exit status: 0 the node kept its bars, 1 it did not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.core.clearance import _make_cleared
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.request import Location, Message, Request
from tests.chaos.exact import answer_to, prompt_of
from tests.chaos.haproxy import haproxy
from tests.chaos.http2 import Connection, grpc_message, opened_and_reset
from tests.chaos.world import HOSTS, ROOT, ExactNode, NodeOptions

MEGABYTE = 1024 * 1024
_BIG = "x" * (4 * MEGABYTE - 200)


def short_deadlines(port: int, tls: TLSFiles, end: float) -> None:
    """Prompts of 4 MiB from 12 threads, each given up after a moment."""
    import grpc

    from hybrid_llm.backends.wire.channels import client_credentials
    from hybrid_llm.protos import hybrid_pb2 as pb
    from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMStub

    message = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content=_BIG)], max_tokens=4)

    def ask() -> None:
        with grpc.secure_channel(
            f"127.0.0.1:{port}", client_credentials(tls), options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = HybridLLMStub(channel)
            while time.monotonic() < end:
                with contextlib.suppress(grpc.RpcError):
                    list(stub.Generate(message, timeout=0.25, metadata=(("hybrid-llm-protocol", "1"),)))

    _together(ask, 12)


def half_bodies(port: int, tls: TLSFiles, end: float) -> None:
    """400 bodies of 4 MiB that lack their last byte, on 8 connections."""

    def hold() -> None:
        connection = Connection(port, tls)
        body = grpc_message(_BIG)[:-1]
        sent: dict[int, int] = {}
        for _ in range(50):
            connection.send([connection.headers(timeout="600S")])
            sent[connection.last] = 0
        while time.monotonic() < end and connection.open:
            moved = 0
            for stream, at in sent.items():
                step = connection.data(stream, body[at : at + 16384], end=False)
                sent[stream] += step
                moved += step
            if not moved:
                time.sleep(0.01)
        _hold(connection, end)

    _together(hold, 8)


def many_streams(port: int, tls: TLSFiles, end: float) -> None:
    """20,000 streams on one connection that send their headers and no more."""
    connection = Connection(port, tls)
    for _ in range(200):
        if not connection.send([connection.headers(timeout="600S") for _ in range(100)]):
            connection = Connection(port, tls)
    _hold(connection, end)


def no_window(port: int, tls: TLSFiles, end: float) -> None:
    """80 requests for long answers on 2 connections whose reader takes nothing."""

    def hold() -> None:
        connection = Connection(port, tls, window=0)
        for number in range(40):
            connection.ask(prompt_of(number, 200), timeout="600S", max_tokens=4000)
        _hold(connection, end)

    _together(hold, 2)


def resets(port: int, tls: TLSFiles, end: float) -> None:
    """Requests that are reset at once, 50 at a time."""
    _reset_until(end, port, tls, 50, "127.0.0.1")


def reset_flood(port: int, tls: TLSFiles, end: float) -> None:
    """Requests that are reset at once, 50,000 on each connection in frames that were made in advance.

    It comes from an address of its own, which a proxy can refuse.
    """
    _reset_until(end, port, tls, 50_000, "127.0.0.2")


def _reset_until(end: float, port: int, tls: TLSFiles, count: int, source: str) -> None:
    frames = opened_and_reset(50_000)
    step = len(frames) // 50_000 * count
    steps = [frames[at : at + step] for at in range(0, len(frames), step)]

    def flood() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                connection = Connection(port, tls, source=source)
                for each in steps:
                    if time.monotonic() > end or not connection.send([each]):
                        break
                    time.sleep(0.02 if count == 50 else 0.0)
                connection.close()

    _together(flood, 2)


def reconnects(port: int, tls: TLSFiles, end: float) -> None:
    """Connections that are opened and closed, as fast as they come."""

    def knock() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                Connection(port, tls).close()

    _together(knock, 4)


def idle_connections(port: int, tls: TLSFiles, end: float) -> None:
    """1,000 connections that ask nothing."""
    held = []
    while len(held) < 1000 and time.monotonic() < end:
        with contextlib.suppress(OSError):
            held.append(Connection(port, tls))
    _hold(held[0], end)


def _hold(connection: Connection, end: float) -> None:
    while time.monotonic() < end and connection.open:
        time.sleep(0.05)


def _together(work: Callable[[], None], count: int) -> None:
    def harmless() -> None:
        with contextlib.suppress(OSError):
            work()

    threads = [threading.Thread(target=harmless, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


ATTACKS = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        short_deadlines,
        half_bodies,
        many_streams,
        no_window,
        resets,
        reset_flood,
        reconnects,
        idle_connections,
    )
}


UNHELD = {"reset flood"}
"""While these go on, others get typed errors, unless HAProxy is in front: gRPC parses them before a call is seen."""


@dataclass(slots=True)
class Seen:
    """What became of a node and its honest client. Milliseconds and megabytes."""

    name: str
    answered: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    p50: float = 0.0
    p99: float = 0.0
    most_mb: float = 0.0
    after_mb: float = 0.0
    attacker_cpu: float = 0.0
    """Processors that the attacker used, such as 0.7."""
    node_cpu: float = 0.0
    """Processors that the front used."""


class Honest:
    """Two threads that ask one after the other and judge each answer."""

    def __init__(self, port: int, tls: TLSFiles) -> None:
        self._backend = GrpcBackend(GrpcConfig(target=f"127.0.0.1:{port}", tls=tls))
        self._over = threading.Event()
        self._times: list[float] = []
        self._errors: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(2)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def forget(self) -> None:
        """Count from now on."""
        self._times.clear()
        self._errors.clear()

    def finish(self, seen: Seen) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._backend.close()
        seen.answered, seen.errors = len(self._times), dict(self._errors)
        if len(self._times) > 1:
            seen.p50 = statistics.median(self._times) * 1e3
            seen.p99 = statistics.quantiles(self._times, n=100)[98] * 1e3

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            number += 2
            prompt = prompt_of(number, 8)
            request = Request(messages=(Message(role="user", content=prompt),), max_tokens=200, deadline=10.0)
            began = time.monotonic()
            try:
                text = "".join(chunk.text for chunk in self._backend.stream(_make_cleared(request, Location.CLOUD)))
            except HybridLLMError as error:
                self._errors[type(error).__name__] += 1
                time.sleep(0.02)
                continue
            self._times.append(time.monotonic() - began)
            self._errors["wrong"] += text != answer_to(prompt)
            time.sleep(0.005)


class Stage:
    """One node, the certificates of an honest app and of a rogue one. With *proxy*, HAProxy stands in front."""

    def __init__(self, folder: Path, *, proxy: bool = False) -> None:
        make_authority(folder / "tls")
        issue(folder / "tls", "node", kind="node", hosts=HOSTS)
        for name in ("app", "rogue"):
            issue(folder / "tls", name, kind="client")
        self.tls = folder / "tls"
        self._folder, self._count, self._proxy = folder, 0, proxy

    @contextlib.contextmanager
    def node(self) -> Iterator[ExactNode]:
        """A fresh node over the exact engine."""
        self._count += 1
        node = ExactNode(self._folder, self._count, NodeOptions())
        node.start()
        try:
            node.wait()
            yield node
        finally:
            node.end()

    def _front(self, node: ExactNode) -> contextlib.AbstractContextManager[int]:
        if not self._proxy:
            return contextlib.nullcontext(node.port)
        return haproxy(f"127.0.0.1:{node.port}", self._folder / "haproxy.log")

    def play(self, name: str, command: list[str], seconds: float) -> Seen:
        """The honest client beside *command*, which gets the port that clients use."""
        seen = Seen(name)
        with self.node() as node, self._front(node) as port:
            honest = Honest(port, TLSFiles.from_dir(self.tls, "app"))
            honest.start()
            time.sleep(1.0)
            front = psutil.Process(node.pid)
            process = subprocess.Popen([*command, str(port)], cwd=ROOT, stdout=subprocess.PIPE)
            assert process.stdout is not None
            try:
                process.stdout.readline()  # it begins
                honest.forget()
                before = sum(front.cpu_times()[:2])
                _watch(process, front, seen, seconds)
            finally:
                process.kill()
                process.communicate()
            seen.node_cpu = (sum(front.cpu_times()[:2]) - before) / seconds
            honest.finish(seen)
            time.sleep(2.0)
            seen.after_mb = front.memory_info().rss / MEGABYTE
        return seen

    def attack(self, name: str, seconds: float) -> Seen:
        command = [sys.executable, "-m", "tests.chaos.hostile", "--attack", name, "--tls", str(self.tls)]
        return self.play(name, [*command, "--seconds", str(seconds), "--port"], seconds)

    def control(self, share: float, seconds: float) -> Seen:
        """A process that uses *share* processors and sends nothing."""
        return self.play("control", [sys.executable, "-c", _BURN, str(share), str(seconds + 5)], seconds)


_BURN = """
import sys, time
print("begins", flush=True)
share, began = float(sys.argv[1]), time.monotonic()
end = began + float(sys.argv[2])
while time.monotonic() < end:
    while time.process_time() < share * (time.monotonic() - began):
        pass
    time.sleep(0.002)
"""


def _watch(process: subprocess.Popen[bytes], front: psutil.Process, seen: Seen, seconds: float) -> None:
    end, used = time.monotonic() + seconds, 0.0
    attacker = psutil.Process(process.pid)
    before = sum(attacker.cpu_times()[:2])
    while time.monotonic() < end:
        seen.most_mb = max(seen.most_mb, front.memory_info().rss / MEGABYTE)
        with contextlib.suppress(psutil.Error):
            used = sum(attacker.cpu_times()[:2]) - before
        time.sleep(0.05)
    seen.attacker_cpu = used / seconds


def rows(names: list[str], seconds: float, *, control: bool = True, proxy: bool = False) -> Iterator[Seen]:
    """A row for quiet, and for each attack a row and its control."""
    folder = Path(tempfile.mkdtemp(prefix="hybrid-llm-hostile-"))
    try:
        stage = Stage(folder, proxy=proxy)
        yield (quiet := stage.control(0.0, seconds))
        for name in names:
            seen = stage.attack(name, seconds)
            yield seen
            if control:
                yield stage.control(seen.attacker_cpu + max(seen.node_cpu - quiet.node_cpu, 0.0), seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


HEAD = (
    "| clients | node, MB | 2 s later | answered | errors | p50, ms | p99, ms | CPU of client and front |\n"
    + "|---" * 8
    + "|"
)


def line(seen: Seen) -> str:
    """A row of the table."""
    errors = ", ".join(f"{count} {name}" for name, count in seen.errors.items() if count) or "none"
    figures = f"{seen.most_mb:.0f} | {seen.after_mb:.0f} | {seen.answered} | {errors} | {seen.p50:.0f} | {seen.p99:.0f}"
    return f"| {seen.name} | {figures} | {seen.attacker_cpu:.2f} + {seen.node_cpu:.2f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(ATTACKS), metavar="ATTACK", help=", ".join(ATTACKS))
    parser.add_argument("--seconds", type=float, default=12.0, help="of each attack (12)")
    parser.add_argument("--no-control", action="store_true")
    parser.add_argument("--haproxy", action="store_true", help="with deploy/haproxy in front of the node")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--attack", choices=list(ATTACKS), help=argparse.SUPPRESS)
    parser.add_argument("--tls", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        files = TLSFiles.from_dir(options.tls, "rogue")
        print("begins", flush=True)
        ATTACKS[options.attack](options.port, files, time.monotonic() + options.seconds)
        return 0
    print(HEAD, flush=True)
    found = []
    names = options.only or list(ATTACKS)
    for seen in rows(names, options.seconds, control=not options.no_control, proxy=options.haproxy):
        found.append(seen)
        print(line(seen), flush=True)
    if options.json:
        print(json.dumps([asdict(seen) for seen in found], indent=1))
    return int(any(seen.most_mb > 400 for seen in found))


if __name__ == "__main__":
    sys.exit(main())
