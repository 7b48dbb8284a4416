"""Asks nodes what they are, beside a view of the signals, so that their state is known before the first request.

`hybrid-llm signals`: what a policy sees of this device, the network and the backends, live or once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

from hybrid_llm.cli.arguments import add_config, add_json, describe
from hybrid_llm.cli.session import Session
from hybrid_llm.cli.signals_view import Style, document, frame, lines
from hybrid_llm.cli.terminal import Exit, Screen, note, print_json
from hybrid_llm.core.errors import HybridLLMError, InvalidRequest
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.signals import Signals

_TIMEOUT_S: Final = 2.0
_LEAST_PAUSE_S: Final = 2.0


@runtime_checkable
class _Probed(Protocol):
    """A backend that can be asked what it is."""

    def probe(self, *, timeout: float) -> Any:
        """Ask, within *timeout* seconds; raises HybridLLMError."""
        ...


class Prober:
    """Asks those of *backends* that can be asked, every *interval* seconds but not more often than every two.

    As a context manager it runs in a thread of its own for as long as it is open; without backends it does nothing.
    """

    def __init__(self, backends: Iterable[Backend], interval: float) -> None:
        self._backends = {backend.name: backend for backend in backends if isinstance(backend, _Probed)}
        self._pause = max(interval, _LEAST_PAUSE_S)
        self._faults: dict[str, str] = {}
        self._asked = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hybrid-llm-probe", daemon=True)

    @property
    def probes(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._backends)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with those that could not be asked, for people."""
        return tuple(self._faults.copy().values())

    def wait(self, seconds: float) -> tuple[str, ...]:
        """Wait until all were asked once; returns the faults."""
        if self.probes and not self._asked.wait(seconds):
            return (*self.faults, f"the nodes have not answered within {seconds:g} s")
        return self.faults

    def _run(self) -> None:
        while not self._over.is_set():
            for name in self._backends:
                self._ask(name)
            self._asked.set()
            self._over.wait(self._pause)

    def _ask(self, name: str) -> None:
        try:
            self._backends[name].probe(timeout=_TIMEOUT_S)
            self._faults.pop(name, None)
        except HybridLLMError as error:
            if not self._over.is_set():
                self._faults[name] = f"{name}: {error}"

    def __enter__(self) -> Self:
        if self.probes:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_TIMEOUT_S)


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
