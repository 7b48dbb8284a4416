"""`hybrid-llm signals`: what a policy sees of this device, the network and the backends, live or once."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime

from hybrid_llm.cli.arguments import add_config, add_json, describe
from hybrid_llm.cli.exits import Exit
from hybrid_llm.cli.output import note, print_json
from hybrid_llm.cli.probing import Prober
from hybrid_llm.cli.screen import Screen
from hybrid_llm.cli.session import Session
from hybrid_llm.cli.signals_text import document, lines
from hybrid_llm.cli.signals_view import Style, frame
from hybrid_llm.router.errors import InvalidRequest
from hybrid_llm.router.signals import Signals

__all__ = ["add_arguments", "run"]

_PATIENCE_S = 3.0
"""Seconds to wait for the second sample: the load of the processors is sure only over a whole interval."""
_LEAST_S, _MOST_S = 0.1, 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Show what a policy sees now, under the names that its conditions use: live on a terminal, once elsewhere.\n"
        "Round-trip times and load of nodes come from calls; --probe makes one to each node, without a prompt.",
        examples=[
            "hybrid-llm signals",
            "hybrid-llm signals --config hybrid.yaml --probe",
            "hybrid-llm signals --json --follow --interval 10 > signals.jsonl",
        ],
        codes=(Exit.CONFIG, Exit.INTERRUPTED),
    )
    add_config(parser)
    add_json(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="show one sample and end, on a terminal too")
    how.add_argument("--follow", action="store_true", help="with --json: a line of JSON for each sample, until Ctrl-C")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between samples; default 1")
    parser.add_argument("--probe", action="store_true", help="ask each node what it is, so that its state is known")


def run(args: argparse.Namespace) -> int:
    """Read, and show."""
    if args.follow and not args.json:
        raise InvalidRequest("--follow goes with --json; on a terminal the view is live without it", field="follow")
    if not _LEAST_S <= args.interval <= _MOST_S:
        raise InvalidRequest(f"--interval is a number of seconds from {_LEAST_S} to {_MOST_S:g}", field="interval")
    with Session(args.config) as session, Prober(session.backends if args.probe else (), args.interval) as prober:
        if args.follow:
            _follow(session, args.interval)
        elif args.json or args.once or not _is_live():
            _once(session, prober, as_json=args.json)
        else:
            _live(session, prober, args.interval)
    return Exit.OK


def _is_live() -> bool:
    return bool(sys.stdout and sys.stdout.isatty()) and os.environ.get("TERM", "dumb") != "dumb"


def _once(session: Session, prober: Prober, *, as_json: bool) -> None:
    signals = _settled(session)
    for fault in prober.wait(_PATIENCE_S):
        note(fault)
    signals = session.signals() if prober.probes else signals
    if as_json:
        print_json(document(signals, datetime.now(UTC)))
    else:
        print("\n".join(lines(signals)))


def _settled(session: Session) -> Signals:
    """The second sample of the device, or what there is after `_PATIENCE_S`."""
    first = latest = session.signals()
    until = time.monotonic() + _PATIENCE_S
    while latest.device is first.device and time.monotonic() < until:
        time.sleep(0.05)
        latest = session.signals()
    return latest


def _follow(session: Session, interval: float) -> None:
    while True:
        print(json.dumps(document(session.signals(), datetime.now(UTC)), allow_nan=False), flush=True)
        time.sleep(interval)


def _live(session: Session, prober: Prober, interval: float) -> None:
    style = Style(colour=not os.environ.get("NO_COLOR"))
    with Screen(sys.stdout) as screen:
        while True:
            columns, rows = screen.size
            title = f"hybrid-llm signals   {datetime.now().astimezone():%H:%M:%S}   Ctrl-C ends"
            screen.draw(frame(session.signals(), title, prober.faults, columns=columns, rows=rows, style=style))
            screen.wait(interval)
