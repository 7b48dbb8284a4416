"""Whatever goes wrong, nothing is lost: `python -m tests.chaos [--requests N] [--only FAULT] [--seed N] [--json]`.

Exit status: 0 nothing was lost or wrong, 1 something was.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read by gRPC when it is imported

from tests.chaos.report import as_json, head, line, total
from tests.chaos.suite import FAULTS, play
from tests.chaos.world import World


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000, metavar="N", help="in all (4000)")
    parser.add_argument("--only", action="append", metavar="FAULT", help="a fault by its name, as in the table")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of requests and faults")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kinds = [kind for kind in FAULTS if not options.only or kind.name in options.only]
    if not kinds:
        parser.error(f"--only takes: {', '.join(kind.name for kind in FAULTS)}")
    logging.getLogger("hybrid_llm").setLevel(logging.ERROR)
    return run(kinds, options)


def run(kinds: list, options: argparse.Namespace) -> int:
    rows = []
    if not options.json:
        print(f"seed {options.seed}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", head(), sep="\n")
    with World() as world:
        for row in play(world, kinds, requests=options.requests // len(kinds), seed=options.seed):
            rows.append(row)
            if not options.json:
                print(line(row), *(f"    {example}" for example in row.examples), sep="\n", flush=True)
    print(json.dumps(as_json(rows), indent=1) if options.json else f"\n{total(rows)}")
    return int(any(row.bad for row in rows))


if __name__ == "__main__":
    sys.exit(main())
