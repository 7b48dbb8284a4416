"""What it costs when the engine of a `hybrid-llm serve` fails, or its disk: beside the outages of `outages`.

The node makes good for its engine itself: it notices, starts another one, and reports meanwhile that it does not serve.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable

from tests.chaos.outages import Outage, Setting
from tests.chaos.real import RealWorld, allow_no_more_memory
from tests.chaos.world import World

_NOTICED_S = 20.0
"""An engine without progress is to be noticed after 5 s, and is killed after 15."""


def _each(act: Callable[[int], object]) -> Callable[[World, int], None]:
    """Do it to the process of the engine."""

    def begin(world: World, number: int) -> None:
        for pid in world.nodes[number].engines():
            act(pid)

    return begin


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _more_memory(pid: int) -> None:
    most = resource.prlimit(pid, resource.RLIMIT_AS)[1]
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))


def _nothing(world: World, number: int) -> None:
    """The node does what is to be done."""


def _fill(world: World, _: int) -> None:
    assert isinstance(world, RealWorld)
    world.fill()


def _clear(world: World, _: int) -> None:
    (world.folder / "filler").unlink()


DISK_FULL = Outage(name="disk full", begin=_fill, end=_clear)
ENGINES = (
    DISK_FULL,
    Outage(name="engine without memory", begin=_each(allow_no_more_memory), end=_each(_more_memory), seconds=8.0),
    Outage(name="engine killed", begin=_each(_kill), end=_nothing, seconds=_NOTICED_S, ends_itself=True),
    Outage(name="engine stopped (SIGSTOP)", begin=_each(_stop), end=_nothing, seconds=_NOTICED_S, ends_itself=True),
)
SERVED = (
    Setting(name="`hybrid-llm serve` and the device", nodes=1, failing=1, device=True),
    Setting(name="`hybrid-llm serve` alone", nodes=1, failing=1, device=False),
)
