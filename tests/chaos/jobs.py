"""Parts of a run in processes of their own, each with a world of its own, some beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from tests.chaos.engines import DISK_FULL, ENGINES, SERVED
from tests.chaos.faults import CertificateFault, Fault, RollingRestart
from tests.chaos.http import HttpWorld
from tests.chaos.official import OfficialWorld
from tests.chaos.outages import OUTAGES, SETTINGS, Cost, Setting, cost
from tests.chaos.parts import run_parts
from tests.chaos.real import EngineKilled, EngineOutOfMemory, RealWorld
from tests.chaos.report import Row
from tests.chaos.suite import FAULTS, play
from tests.chaos.world import World


class RealRollingRestart(RollingRestart):
    """As `hybrid-llm serve` restarts, which loads a model first."""

    name = "rolling restart*"
    note = "* hybrid-llm serve"


REAL: tuple[type[Fault], ...] = (RealRollingRestart, EngineKilled, EngineOutOfMemory)
Kind = Literal["exact", "real", "http", "gateway"]
"""What the requests meet: exact nodes, real ones, servers over HTTP, or a gateway before such servers."""
OVER_HTTP = tuple(kind for kind in FAULTS if not issubclass(kind, CertificateFault))
"""Servers over HTTP know no certificates of apps, and read their own when they start."""
BEHIND_GATEWAY = tuple(kind for kind in OVER_HTTP if not kind.ends_clients)
_KNOWN: Mapping[Kind, Sequence[type[Fault]]] = {
    "exact": FAULTS,
    "real": REAL,
    "http": OVER_HTTP,
    "gateway": BEHIND_GATEWAY,
}
_WORLDS: Mapping[Kind, Callable[[], World]] = {
    "exact": World,
    "real": partial(RealWorld, nodes=2),
    "http": HttpWorld,
    "gateway": OfficialWorld,
}
NAMES = tuple(kind.name for kind in (*FAULTS, *REAL))


@dataclass(frozen=True, slots=True)
class Rows:
    """Faults of the exact world, of the real one, or of the one over HTTP, under traffic."""

    names: Sequence[str]
    requests: int
    seed: int
    setting: Kind

    def run(self) -> Iterator[Row]:
        known = _KNOWN[self.setting]
        kinds = [kind for kind in known if kind.name in self.names]
        with _WORLDS[self.setting]() as world:
            yield from play(world, kinds, requests=self.requests, seed=self.seed)


@dataclass(frozen=True, slots=True)
class Costs:
    """Every outage in one setting."""

    setting: Setting

    def run(self) -> Iterator[Cost]:
        if self.setting not in SERVED:
            with World(nodes=self.setting.nodes) as world:
                yield from (cost(world, outage, self.setting) for outage in OUTAGES)
            return
        with RealWorld(nodes=self.setting.nodes) as world:
            world.learn()
            for outage in ENGINES:
                if world.has_disk or outage is not DISK_FULL:
                    yield cost(world, outage, self.setting)


def rows(names: Sequence[str], *, requests: int, seed: int, jobs: int, setting: Kind = "exact") -> Iterator[Row]:
    """Each of the faults *names*, as they end; those of the exact setting with those of the real one."""
    light = [kind.name for kind in _KNOWN[setting] if kind.name in names]
    size = -(-len(light) // jobs) or 1
    parts = [Rows(light[first : first + size], requests, seed, setting) for first in range(0, len(light), size)]
    if setting == "exact":
        parts += [Rows([kind.name], requests, seed, "real") for kind in REAL if kind.name in names]
    yield from run_parts(parts, jobs)


def costs(jobs: int) -> Iterator[Cost]:
    """Every outage in every setting, as they end."""
    yield from run_parts([Costs(setting) for setting in (*SETTINGS, *SERVED)], jobs)
