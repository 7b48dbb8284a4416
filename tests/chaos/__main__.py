"""Whatever goes wrong, nothing is lost: `python -m tests.chaos [--requests N] [--only FAULT] [--seed N] [--json]`.

`--table` measures what an outage costs instead, `--soak 12m` whether anything grows under traffic.

Exit status: 0 nothing was lost or wrong, 1 something was.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read by gRPC when it is imported

from tests.chaos.faults import Fault, RollingRestart
from tests.chaos.outages import costs, table
from tests.chaos.real import EngineKilled, EngineOutOfMemory, RealWorld
from tests.chaos.report import Row, as_json, head, line, total
from tests.chaos.soak import soak
from tests.chaos.suite import FAULTS, play
from tests.chaos.world import World


class RealRollingRestart(RollingRestart):
    """As `hybrid-llm serve` restarts, which loads a model first."""

    name = "rolling restart*"
    note = "* hybrid-llm serve"


REAL = (RealRollingRestart, EngineKilled, EngineOutOfMemory)


def main() -> int:
    names = ", ".join(kind.name for kind in (*FAULTS, *REAL))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, metavar="N", help="under each fault (200)")
    parser.add_argument("--only", action="append", metavar="FAULT", help=f"one of: {names}")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of requests and faults")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", action="store_true", help="what an outage costs with default settings, and end")
    parser.add_argument("--soak", type=_seconds, metavar="12m", help="mixed traffic for so long, and end")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(names.split(", "))
    if unknown:
        parser.error(f"there is no fault {unknown.pop()!r}: {names}")
    logging.getLogger("hybrid_llm").setLevel(logging.ERROR)
    if options.soak:
        result = soak(options.soak, seed=options.seed)
        print(*result.lines(), sep="\n", flush=True)
        return int(not result.is_sound)
    if options.table:
        for text in table(costs()):
            print(text, flush=True)
        return 0
    if not options.json:
        print(f"seed {options.seed}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", head(), sep="\n")
    rows = []
    for row in run(options):
        rows.append(row)
        if not options.json:
            print(line(row), *(f"    {example}" for example in row.examples), sep="\n", flush=True)
    print(json.dumps(as_json(rows), indent=1) if options.json else f"\n{total(rows)}")
    return int(any(row.bad for row in rows))


def _seconds(text: str) -> float:
    """Seconds of a duration such as `12m` or `20s`."""
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def run(options: argparse.Namespace) -> Iterator[Row]:
    """The rows of the exact world, then those of the real one."""

    def chosen(kinds: tuple[type[Fault], ...]) -> list[type[Fault]]:
        return [kind for kind in kinds if not options.only or kind.name in options.only]

    if chosen(FAULTS):
        with World() as world:
            yield from play(world, chosen(FAULTS), requests=options.requests, seed=options.seed)
    if chosen(REAL):
        with RealWorld(nodes=2) as world:
            yield from play(world, chosen(REAL), requests=options.requests, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
