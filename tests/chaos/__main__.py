"""Whatever goes wrong, nothing is lost: `python -m tests.chaos [--requests N] [--only FAULT] [--seed N] [--jobs N]`.

`--setting http` and `--setting gateway` do the same over HTTP. `--table` measures what an outage costs instead,
`--soak 12m` whether anything grows under traffic.

Exit status: 0 nothing was lost or wrong, and no error was avoidable; 1 something was.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read by gRPC when it is imported

from tests.chaos import jobs
from tests.chaos.curve import write_curve
from tests.chaos.outages import Cost, table
from tests.chaos.report import as_json, head, line, total
from tests.chaos.soak import soak


def main() -> int:
    names = ", ".join(jobs.NAMES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=int, metavar="N", help="under each fault (200); of a soak: it lasts until as many have ended"
    )
    parser.add_argument("--only", action="append", metavar="FAULT", help=f"one of: {names}")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of requests and faults")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="faults beside each other (3)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", action="store_true", help="what an outage costs with default settings, and end")
    parser.add_argument(
        "--setting", choices=("exact", "http", "gateway"), default="exact",
        help="exact: nodes over gRPC; http: gateways as openai backends; gateway: those behind one that apps reach",
    )  # fmt: skip
    parser.add_argument("--soak", type=_seconds, metavar="30m", help="mixed traffic for so long, and end")
    parser.add_argument("--rate", type=float, default=15.0, metavar="N", help="requests a second of a soak (15)")
    parser.add_argument("--curve", type=Path, metavar="DIR", help="write what a soak measured to soak.csv and soak.svg")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(names.split(", "))
    if unknown:
        parser.error(f"there is no fault {unknown.pop()!r}: {names}")
    logging.getLogger("hybrid_llm").setLevel(logging.ERROR)
    if options.soak:
        return _soak(options)
    if options.table:
        print(_load())
        measured: list[Cost] = []
        for text in table(one for one in jobs.costs(options.jobs) if not measured.append(one)):
            print(text, flush=True)
        return int(any(one.wrong or one.back_s is None for one in measured))
    if not options.json:
        print(f"seed {options.seed}, {_load()}", head(), sep="\n", flush=True)
    rows = []
    chosen = options.only or jobs.NAMES
    for row in jobs.rows(
        chosen, requests=options.requests or 200, seed=options.seed, jobs=options.jobs, setting=options.setting
    ):
        rows.append(row)
        if not options.json:
            print(line(row), *(f"    {example}" for example in row.examples), sep="\n", flush=True)
    print(json.dumps(as_json(rows), indent=1) if options.json else f"{total(rows)}; {_load()}")
    return int(any(row.bad for row in rows))


def _soak(options: argparse.Namespace) -> int:
    result = soak(options.soak, rate=options.rate, seed=options.seed, requests=options.requests or 0)
    print(*result.lines(), sep="\n", flush=True)
    if options.curve is not None:
        print(*write_curve(options.curve, result.samples, "RSS, MB"), sep="\n")
    return int(not result.is_sound)


def _load() -> str:
    return f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} processors"


def _seconds(text: str) -> float:
    """Seconds of a duration such as `12m` or `20s`."""
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


if __name__ == "__main__":
    sys.exit(main())
