"""Thousands of requests under generated policies, tags, contents and faults: how many left, and how many leaked.

    python -m benchmarks leaks [--runs 20000] [--seed N] [--shrink]

Each request has its own generated situation: policy, tags, values, how it is called, faults of its backends, detectors
and caches, and what happens while it is answered. A leak is a piece of eight characters of a text, in any encoding, in
bytes for a node or cloud cache that may not receive it, or in any log, event, error, warning, output or file. The first
leak ends the run and prints the steps that lead to it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from benchmarks._run import parsed, parser
from tests.leaks.machine import WORTH_SEEING, explore, happened

CLIENTS = 100
"""Clients for each seed, of about 17 requests each."""


def main() -> int:
    """Run seed after seed until there were enough requests; the exit status is 1 when a leak was found."""
    made = parser(__doc__)
    made.add_argument("--runs", type=int, default=2000, help="requests at least (default: 2000)")
    made.add_argument("--seed", type=int, default=1, help="the first seed (default: 1)")
    made.add_argument("--shrink", action="store_true", help="look for the shortest way to a leak (minutes)")
    options = parsed(made)
    clients, runs = (2, 1) if options.smoke else (CLIENTS, options.runs)
    began, seed, leaks = time.monotonic(), options.seed, 0
    while happened["requests"] < runs and not leaks:
        leaks = try_seed(seed, clients, shrink=options.shrink)
        seed += 1
    show(happened, seeds=seed - options.seed, leaks=leaks, seconds=time.monotonic() - began)
    return 1 if leaks else 0


def try_seed(seed: int, clients: int, *, shrink: bool) -> int:
    """Run one seed and print a line about it; returns the number of leaks found, 0 or 1."""
    before, began = happened["requests"], time.monotonic()
    try:
        explore(clients, seed, shrink=shrink)
    except AssertionError as error:
        print(f"seed {seed}: {error}", *getattr(error, "__notes__", ()), sep="\n")
        return 1
    print(f"seed {seed:3}   {happened['requests'] - before:5} requests   {time.monotonic() - began:5.0f} s", flush=True)
    return 0


def show(seen: Counter[str], *, seeds: int, leaks: int, seconds: float) -> None:
    """Print what was seen, and what was never seen though it should have been."""
    print(f"\n{seen['requests']} requests, {seeds} seeds, {leaks} leaks, {seconds:.0f} s\n")
    for name in sorted(name for name, count in seen.items() if count and name != "requests"):
        print(f"  {name:44} {seen[name]:7}")
    for name in WORTH_SEEING:
        if not seen[name]:
            print(f"  never seen: {name}")


if __name__ == "__main__":
    sys.exit(main())
