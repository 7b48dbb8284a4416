"""What an outage costs with default settings: `python -m tests.chaos --table` measures it, fault by fault.

Nothing of `resilience` is set: the breaker stays open for 30 s, retries are two, nothing is hedged or continued.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.wire import TLSFiles, issue
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.protocols import Backend
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.faults import nearly_over
from tests.chaos.proxy import Weather
from tests.chaos.world import HOSTS, World, eventually

_CALLERS = 4
_PAUSE_S, _PAUSE_FAILED_S = 0.02, 0.1
"""Between two requests of a caller, seconds. One that fails at once takes no processor from a node that starts."""
_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Something that is wrong with some nodes for *seconds*: *begin* and *end* do it to one."""

    name: str
    begin: Callable[[World, int], None]
    end: Callable[[World, int], None]
    seconds: float = 2.0
    """How long it lasts; of what ends by itself, how long it may take to be noticed."""
    ends_itself: bool = False
    """The node makes good for it; it is used again so many seconds after the begin, not after the end."""
    prepare: Callable[[World, int], None] = lambda *_: None
    """What has to happen before, while all is well."""


def _weather(world: World, number: int, weather: Weather) -> None:
    world.proxies[number].weather = weather


def _refuse(world: World, number: int) -> None:
    _weather(world, number, Weather(refuse=True))
    world.proxies[number].cut()


def _cut(world: World, number: int) -> None:
    world.proxies[number].cut()


def _expire(world: World, number: int) -> None:
    issue(world.nodes[number].tls, "node", kind="node", hosts=HOSTS, not_before=nearly_over(), days=1)
    time.sleep(0.05)
    world.proxies[number].cut()  # the node loads it for the next connection, and would refuse one that has expired
    time.sleep(1.6)


def _renew(world: World, number: int) -> None:
    shutil.copytree(world.folder / "tls", world.nodes[number].tls, dirs_exist_ok=True)
    time.sleep(0.05)
    world.proxies[number].cut()


def _kill(world: World, number: int) -> None:
    world.nodes[number].end(signal.SIGKILL)


def _restart(world: World, number: int) -> None:
    world.nodes[number].start()
    world.nodes[number].wait()


def _calm(world: World, number: int) -> None:
    _weather(world, number, Weather())


def _bad(weather: Weather) -> Callable[[World, int], None]:
    return lambda world, number: _weather(world, number, replace(weather))


def _send(sent: int) -> Callable[[World, int], None]:
    return lambda world, number: world.nodes[number].send(sent)


REFUSED = Outage(name="refused", begin=_refuse, end=_calm)
KILLED = Outage(name="kill -9", begin=_kill, end=_restart)
RESET = Outage(name="one reset", begin=_cut, end=_calm, seconds=0.0)
STOPPED = Outage(name="SIGSTOP", begin=_send(signal.SIGSTOP), end=_send(signal.SIGCONT))
BLACK_HOLE = Outage(name="black hole", begin=_bad(Weather(silent_up=True, silent_down=True)), end=_calm)
SLOW = Outage(name="slow, 0.1 s", begin=_bad(Weather(delay=(0.1, 0.1))), end=_calm)
CUTS = Outage(name="cuts at 0.4 % of reads", begin=_bad(Weather(cut=0.004)), end=_calm)
ENGINE_DEAD = Outage(name="engine dead", begin=_send(signal.SIGUSR1), end=_send(signal.SIGUSR1))
ENGINE_FAILS = Outage(name="every call fails", begin=_send(signal.SIGUSR2), end=_send(signal.SIGUSR2))
EXPIRED = Outage(name="certificate expired", prepare=_expire, begin=_cut, end=_renew)
OUTAGES = (REFUSED, KILLED, RESET, STOPPED, BLACK_HOLE, SLOW, CUTS, EXPIRED, ENGINE_DEAD, ENGINE_FAILS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Which nodes there are, how many of them fail, and whether the device answers meanwhile."""

    name: str
    nodes: int
    failing: int
    device: bool


SETTINGS = (
    Setting(name="one node and the device", nodes=1, failing=1, device=True),
    Setting(name="one node alone", nodes=1, failing=1, device=False),
    Setting(name="one of three nodes", nodes=3, failing=1, device=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Times in seconds; None: it did not happen."""

    outage: str
    setting: str
    noticed_s: float | None
    """From the fault until the client sends the endpoint no more calls."""
    requests: int
    affected: int
    """Requests that needed a second call, or ended in an error."""
    errors: int
    wrong: int
    slowest_s: float
    back_s: float | None
    """From the end of the fault until a node that had failed has answered a request."""


@dataclass(slots=True, eq=False)
class _Request:
    began: float
    ended: float = 0.0
    reply: Generation | None = None
    right: bool = True

    @property
    def is_affected(self) -> bool:
        return self.reply is None or len(self.reply.attempts) > 1


@dataclass(slots=True, eq=False)
class _Callers:
    """Threads that ask one request after the other until `stop`."""

    world: World
    llm: HybridLLM
    requests: list[_Request] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._threads += [threading.Thread(target=self._run, daemon=True) for _ in range(_CALLERS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        pause = _PAUSE_S
        while not self._over.wait(pause):
            request = _Request(time.monotonic())
            self.requests.append(request)
            with suppress(HybridLLMError):
                request.reply, request.right = self.world.ask(self.llm, next(self._numbers))
            request.ended = time.monotonic()
            pause = _PAUSE_S if request.reply else _PAUSE_FAILED_S

    def answered_since(self, instant: float) -> bool:
        """Whether a node answered a request that began after *instant*."""
        return any(each.began > instant and each.reply and each.reply.backend == "cloud" for each in self.requests)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60.0)


@dataclass(slots=True)
class _Watch:
    """The endpoints that fail, and when each of them got no more calls."""

    endpoints: Sequence[GrpcBackend]
    seconds: float | None = None

    @property
    def all_usable(self) -> bool:
        return all(endpoint.health.health.is_usable for endpoint in self.endpoints)

    def watch(self, began: float, outage: Outage) -> None:
        """Look from the instant *began* until *outage* is over."""
        while time.monotonic() < began + outage.seconds and not (outage.ends_itself and self.seconds is not None):
            if self.seconds is None and not any(each.health.health.is_usable for each in self.endpoints):
                self.seconds = time.monotonic() - began
            time.sleep(0.002)


def _backends(world: World, setting: Setting) -> tuple[list[Backend], Sequence[GrpcBackend]]:
    """The backends of a client as its configuration would make them, and the endpoints among them."""
    if setting.nodes > 1:
        pool = world.pool()
        cloud, endpoints = pool, tuple(pool._endpoints.values())
    else:
        files = TLSFiles.from_dir(world.app_tls, "app")
        cloud = GrpcBackend(GrpcConfig(target=f"127.0.0.1:{world.proxies[0].port}", tls=files))
        endpoints = (cloud,)
    return [cloud, world.edge()] if setting.device else [cloud], endpoints


def _node_answers(world: World, llm: HybridLLM) -> bool:
    try:
        return world.ask(llm, 0)[0].backend == "cloud"
    except HybridLLMError:
        return False


def cost(world: World, outage: Outage, setting: Setting) -> Cost:
    """Let *outage* happen under traffic, and measure."""
    backends, endpoints = _backends(world, setting)
    places = {backend.name: backend.location for backend in backends}
    policy = parse_policy(f"version: 1\nname: p\nrules:\n  - prefer: [{', '.join(places)}]\n", backends=places)
    failing = range(setting.failing)
    with HybridLLM(backends, policy, sensors=FixedSensors()) as llm, ExitStack() as ended:
        callers = _Callers(world, llm)
        assert eventually(lambda: _node_answers(world, llm), 3 * world.back_s), "the last outage is not over"
        callers.start()
        ended.callback(callers.stop)
        time.sleep(_SETTLE_S)
        for number in failing:
            outage.prepare(world, number)
        began, noticed = time.monotonic(), _Watch([endpoints[number] for number in failing])
        for number in failing:
            outage.begin(world, number)
        noticed.watch(began, outage)
        for number in failing:
            outage.end(world, number)
        healed = time.monotonic()
        back_s = eventually(lambda: noticed.all_usable and callers.answered_since(healed), world.back_s)
        if back_s is not None and outage.ends_itself:
            back_s += healed - began
        time.sleep(_SETTLE_S)
        callers.stop()
    requests = [request for request in callers.requests if request.ended >= began]
    return Cost(
        outage=outage.name,
        setting=setting.name,
        noticed_s=noticed.seconds,
        requests=len(requests),
        affected=sum(request.is_affected for request in requests),
        errors=sum(request.reply is None for request in requests),
        wrong=sum(not request.right for request in requests),
        slowest_s=max(request.ended - request.began for request in requests),
        back_s=back_s,
    )


_HEAD = ("fault", "nodes", "noticed", "requests", "affected", "errors", "slowest", "used again")


def table(measured: Iterable[Cost]) -> Iterator[str]:
    """The lines of a table in Markdown, as the costs are measured."""
    yield f"| {' | '.join(_HEAD)} |"
    yield "|---" * len(_HEAD) + "|"
    for one in measured:
        cells = (one.outage, one.setting, _s(one.noticed_s), one.requests, one.affected, one.errors)
        yield f"| {' | '.join(map(str, cells))} | {_s(one.slowest_s)} | {_s(one.back_s)} |"


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"
