"""What can go wrong, one class each: `inject` makes it happen to some of the nodes, `heal` makes it good again."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from hybrid_llm.backends.wire import issue, make_authority
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.recorder import DecisionRecorder
from hybrid_llm.router.spending.stored import DatabaseLedger
from tests.chaos.proxy import Weather
from tests.chaos.world import HOSTS, World


class Fault(ABC):
    """One thing that goes wrong."""

    name: ClassVar[str]
    note: ClassVar[str] = ""
    """What the reader of the table should know."""
    unheard: ClassVar[bool] = False
    """Whether nodes cannot hear that a caller has left, so that nothing is said of when its slot is free."""

    ends_clients: ClassVar[bool] = False
    """The clients do not live on."""
    spares_node: ClassVar[bool] = True
    """At any time there is a node that it leaves alone, so that it keeps no request from its answer."""
    breaks: ClassVar[bool] = True
    """Answers that have begun may break off."""
    distrusts: ClassVar[bool] = False
    """Who meets it must not trust the node, and no other answer makes good for that."""

    def __init__(self, world: World, random_: random.Random) -> None:
        self.world, self.random = world, random_
        self.clients: list[HybridLLM] = []
        """Those that ask; set before `inject`."""

    def options(self) -> dict[str, object]:
        """What each client is made with, for faults of what it writes."""
        return {}

    @abstractmethod
    def inject(self) -> None:
        """Let it happen."""

    def heal(self) -> None:
        """Make it good; by default calm weather, and every node up."""
        self.world.calm()

    def end(self) -> None:  # noqa: B027  # most have nothing to do
        """The clients are closed: clear up."""


class _Again(Fault):
    """A fault that strikes again and again until it is healed."""

    every: ClassVar[tuple[float, float]] = (0.05, 0.3)

    def inject(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self.random.uniform(*self.every)):
            self.strike()

    @abstractmethod
    def strike(self) -> None:
        """Once."""

    def heal(self) -> None:
        self._over.set()
        self._thread.join()
        super().heal()


class Nothing(Fault):
    """For comparison."""

    name = "nothing"
    breaks = False

    def inject(self) -> None:
        """Nothing happens."""


class Kill(_Again):
    """A node is killed with SIGKILL in the middle of its work, and started again."""

    name = "kill -9"
    every = (0.3, 0.8)

    def strike(self) -> None:
        node = self.random.choice(self.world.nodes)
        node.end(signal.SIGKILL)
        node.start()
        node.wait()


class Stop(Fault):
    """A node is stopped with SIGSTOP: its connections stay, and it says nothing."""

    name = "SIGSTOP"
    unheard = True

    def inject(self) -> None:
        self.world.nodes[0].send(signal.SIGSTOP)

    def heal(self) -> None:
        self.world.nodes[0].send(signal.SIGCONT)


class RollingRestart(_Again):
    """One node after the other is told to end (SIGTERM), and started again."""

    name = "rolling restart"
    breaks = False
    every = (0.2, 0.4)
    _next = 0

    def strike(self) -> None:
        node = self.world.nodes[self._next % len(self.world.nodes)]
        self._next += 1
        node.end(signal.SIGTERM)
        node.start()
        node.wait()


class _BadWeather(Fault):
    weather: ClassVar[Weather]

    def inject(self) -> None:
        for proxy in self.world.proxies:
            proxy.weather = replace(self.weather)


class Cut(_BadWeather):
    """Connections are reset at random segments."""

    name = "cut"
    spares_node = False
    weather = Weather(cut=0.02)


class Delay(_BadWeather):
    """Every segment takes up to 60 ms in each direction."""

    name = "delay"
    breaks = False
    weather = Weather(delay=(0.01, 0.06))


class Reorder(_BadWeather):
    """Segments change places inside the stream. TCP hides that from above; to TLS it is a forgery."""

    name = "reorder"
    spares_node = False
    note = "seen by TLS as forged"
    weather = Weather(swapped=0.02)


class Garble(_BadWeather):
    """Bytes change on the way."""

    name = "garble"
    spares_node = False
    weather = Weather(garbled=0.01)


class HalfOpen(Fault):
    """What the node sends is gone; the node sees nothing of it."""

    name = "half-open"
    unheard = True

    def inject(self) -> None:
        for proxy in self.world.proxies[:2]:
            proxy.weather = Weather(silent_down=True)


class Offline(Fault):
    """Everything to all nodes is gone, without a word."""

    name = "offline"
    spares_node = False
    unheard = True

    def inject(self) -> None:
        for proxy in self.world.proxies:
            proxy.weather = Weather(silent_up=True, silent_down=True)


class Refused(Fault):
    """Nothing listens anywhere."""

    name = "all refused"
    spares_node = False

    def inject(self) -> None:
        for proxy in self.world.proxies:
            proxy.weather = Weather(refuse=True)
            proxy.cut()


class Full(Fault):
    """The nodes have one slot and a queue of one."""

    name = "full queue"
    spares_node = breaks = False

    def inject(self) -> None:
        self._restart(slots=1, queue=1)

    def _restart(self, **options: int) -> None:
        for node in self.world.nodes:
            node.end(signal.SIGTERM)
            node.options = replace(node.options, **options)
            node.start()
        for node in self.world.nodes:
            node.wait()

    def heal(self) -> None:
        self._restart(slots=16, queue=64)


class CertificateFault(Fault):
    """A certificate file is replaced, and connections are cut so that it comes to count."""

    distrusts = True

    def _replace(self, write: Callable[[], None]) -> None:
        write()
        time.sleep(0.05)
        for proxy in self.world.proxies:
            proxy.cut()

    def heal(self) -> None:
        def write() -> None:
            for folder in (self.world.app_tls, *(node.tls for node in self.world.nodes)):
                shutil.copytree(self.world.folder / "tls", folder, dirs_exist_ok=True)

        self._replace(write)
        super().heal()


def nearly_over() -> datetime:
    """When a certificate of one day began that ends in a second and a half."""
    return datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=1.5)


class AppExpired(CertificateFault):
    """The app's certificate expires while it runs."""

    name = "expired (app)"
    spares_node = False

    def inject(self) -> None:
        self._replace(lambda: issue(self.world.app_tls, "app", kind="client", not_before=nearly_over(), days=1))
        time.sleep(1.6)
        self._replace(lambda: None)


class NodeExpired(CertificateFault):
    """A node's certificate expires while it runs."""

    name = "expired (node)"

    def inject(self) -> None:
        node = self.world.nodes[0]
        self._replace(lambda: issue(node.tls, "node", kind="node", hosts=HOSTS, not_before=nearly_over(), days=1))
        time.sleep(1.6)
        self._replace(lambda: None)


class ClockJump(CertificateFault):
    """The app's clock jumps back by two days: its certificate is not valid yet."""

    name = "clock jump"
    spares_node = False
    note = "as certificates see it; deadlines are on the monotonic clock, which cannot jump"

    def inject(self) -> None:
        begins = datetime.now(UTC) + timedelta(days=2)
        self._replace(lambda: issue(self.world.app_tls, "app", kind="client", not_before=begins, days=7))


class Swapped(CertificateFault):
    """A node comes back with the certificate of another authority: whoever that is, it is not our node."""

    name = "swapped cert"

    def inject(self) -> None:
        other = self.world.folder / "other"
        shutil.rmtree(other, ignore_errors=True)
        make_authority(other, name="somebody else's CA")
        issue(other, "node", kind="node", hosts=HOSTS)
        self._replace(lambda: shutil.copytree(other, self.world.nodes[0].tls, dirs_exist_ok=True))


class Closed(Fault):
    """The app closes its clients while they are at work."""

    name = "client closed"
    ends_clients = True

    def inject(self) -> None:
        for number, client in enumerate(self.clients):
            threading.Timer(0.1 + 0.1 * number, client.close).start()


class DiskFull(Fault):
    """The disk that holds recorded decisions and the ledger of what tenants spend is full. The cache is in memory.

    What has a price cannot be booked then, so nodes are not called.
    """

    name = "disk full"
    spares_node = breaks = False
    _count = 0

    def __init__(self, world: World, random_: random.Random) -> None:
        super().__init__(world, random_)
        self._folder = world.folder / "disk"
        self._folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(self._folder)]
        self._mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def options(self) -> dict[str, object]:
        self._count += 1
        return {
            "hooks": [DecisionRecorder(self._folder / f"decisions{self._count}.jsonl", max_bytes=16_384, keep=1)],
            "ledger": DatabaseLedger(self._folder / f"spend{self._count}.db"),
            "prices": {"cloud": 0.01},
            "cache": MemoryCache(),
        }

    def inject(self) -> None:
        if self._mounted:
            with suppress(OSError), (self._folder / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
        else:  # without the right to mount, no file of this process may grow
            self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, self._before[1]))

    def heal(self) -> None:
        if self._mounted:
            (self._folder / "filler").unlink()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._before)

    def end(self) -> None:
        if self._mounted:
            subprocess.run(["umount", str(self._folder)], check=True)
