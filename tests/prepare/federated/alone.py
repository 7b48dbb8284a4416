"""A whole federated tuning in one process: for a network namespace in which everybody who is called is seen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.prepare.federated.test_federation import client, server, work
from tests.prepare.federated.world import CLIENTS, World


def tune(root: Path) -> None:
    """Make one round with three clients over TLS."""
    world = World.make(root / "world", records=20)
    with ThreadPoolExecutor(1 + len(CLIENTS)) as pool:
        serving = pool.submit(server(world, 9443, rounds=1).run, work(root / "server"))
        joined = [pool.submit(client(world, name, 9443).run, work(root / name)) for name in CLIENTS]
        for each in (serving, *joined):
            each.result()
