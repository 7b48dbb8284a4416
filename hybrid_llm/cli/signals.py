"""`hybrid-llm signals`: show the signals that policies read: live on a terminal, once as text, or as JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from hybrid_llm.cli.arguments import Command, add_config, add_json
from hybrid_llm.cli.chat import Session
from hybrid_llm.cli.signals_view import View, document, lines
from hybrid_llm.cli.terminal import Exit, Screen, console_for, note, output
from hybrid_llm.core.errors import HybridLLMError, InvalidRequest
from hybrid_llm.core.signals import Signals

if TYPE_CHECKING:
    from rich.console import Console

_PROBE_TIMEOUT_S: Final = 2.0
_MIN_PROBE_INTERVAL_S: Final = 2.0
_SETTLE_TIMEOUT_S: Final = 3.0
_MIN_INTERVAL_S, _MAX_INTERVAL_S = 0.1, 3600.0


def _probe(backends: Sequence[Any]) -> list[str]:
    """Probe each backend once, without a prompt; returns the errors."""
    errors = []
    for backend in backends:
        try:
            backend.probe(timeout=_PROBE_TIMEOUT_S)
        except HybridLLMError as error:
            errors.append(f"{backend.name}: {error}")
    return errors


@contextlib.contextmanager
def _probing(backends: Sequence[Any], interval: float) -> Iterator[list[str]]:
    """Probe *backends* in a thread, so that the view never waits for them; yields the last errors, kept up to date."""
    errors: list[str] = []
    closed = threading.Event()

    def run() -> None:
        while not closed.is_set():
            errors[:] = _probe(backends)
            closed.wait(max(interval, _MIN_PROBE_INTERVAL_S))

    thread = threading.Thread(target=run, name="hybrid-llm-probe", daemon=True)
    thread.start()
    try:
        yield errors
    finally:
        closed.set()
        thread.join(timeout=_PROBE_TIMEOUT_S)


def _options(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--once", action="store_true", help="print one sample and exit, on a terminal too")
    mode.add_argument("--follow", action="store_true", help="with --json: one line of JSON per sample, until Ctrl-C")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between samples (1)")
    parser.add_argument("--probe", action="store_true", help="probe each node, so that its state is known")


def _run(args: argparse.Namespace) -> int:
    if args.follow and not args.json:
        raise InvalidRequest("--follow needs --json; on a terminal the view is live without it", field="follow")
    if not _MIN_INTERVAL_S <= args.interval <= _MAX_INTERVAL_S:
        message = f"--interval must be between {_MIN_INTERVAL_S} and {_MAX_INTERVAL_S:g} seconds"
        raise InvalidRequest(message, field="interval")
    console = None if args.json or args.once else console_for(sys.stdout)
    with Session(args.config) as session:
        probed = [one for one in session.client.backends if args.probe and hasattr(one, "probe")]
        if not args.follow and console is None:
            for error in _probe(probed):
                note(error)
            signals = _settled(session)
            output(document(signals, datetime.now(UTC)), lines(signals), as_json=args.json)
            return Exit.OK
        with _probing(probed, args.interval) as errors:
            if console is not None:
                _show_live(session, errors, args.interval, console)
            while True:
                print(json.dumps(document(session.client.signals(), datetime.now(UTC)), allow_nan=False), flush=True)
                time.sleep(args.interval)


def _settled(session: Session) -> Signals:
    """The second sample of the device: the load of the processors is only known over an interval."""
    first = latest = session.client.signals()
    until = time.monotonic() + _SETTLE_TIMEOUT_S
    while latest.device is first.device and time.monotonic() < until:
        time.sleep(0.05)
        latest = session.client.signals()
    return latest


def _show_live(session: Session, errors: list[str], interval: float, console: Console) -> NoReturn:
    with Screen(console) as screen:
        while True:
            title = f"hybrid-llm signals   {datetime.now().astimezone():%H:%M:%S}   Ctrl-C exits"
            screen.draw(View(session.client.signals(), title, errors))
            screen.wait(interval)


SIGNALS: Final = Command(
    about="Show the signals that policies read, with the names used in conditions: live on a terminal, else once.\n"
    "Round-trip times and load of nodes are measured by calls; --probe calls each node, without a prompt.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm signals",
        "hybrid-llm signals --config hybrid.yaml --probe",
        "hybrid-llm signals --json --follow --interval 10 > signals.jsonl",
    ),
    codes=(Exit.CONFIG, Exit.INTERRUPTED),
)
