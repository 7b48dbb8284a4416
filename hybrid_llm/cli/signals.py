"""`hybrid-llm signals`: what a policy sees of this device, the network and the backends at this moment."""

from __future__ import annotations

import argparse
import time

from hybrid_llm.cli.arguments import add_config, add_json, describe
from hybrid_llm.cli.exits import Exit
from hybrid_llm.cli.output import print_json, record
from hybrid_llm.cli.session import Session
from hybrid_llm.router.signals import Signals

__all__ = ["add_arguments", "run"]

_PATIENCE_S = 3.0
"""Seconds to wait for the second sample: the load of the processors is known only from two readings."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Show what a policy sees now, under the names that its conditions use.",
        examples=["hybrid-llm signals", "hybrid-llm signals --config hybrid.yaml --json"],
        codes=(Exit.CONFIG,),
    )
    add_config(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Read, and show."""
    with Session(args.config) as session:
        shown = _records(_settled(session))
    if args.json:
        print_json(shown)
    else:
        print("\n".join(_line(owner, name, value) for owner, values in shown.items() for name, value in values.items()))
    return Exit.OK


def _settled(session: Session) -> Signals:
    """The second sample of the device, or what there is after `_PATIENCE_S`."""
    first = latest = session.signals()
    until = time.monotonic() + _PATIENCE_S
    while latest.device is first.device and time.monotonic() < until:
        time.sleep(0.05)
        latest = session.signals()
    return latest


def _records(signals: Signals) -> dict[str, dict[str, object]]:
    found = {
        "device": record(signals.device),
        "network": record(signals.network),
        "budget": record(signals.budget),
    }
    return {**found, **{name: record(state) for name, state in signals.backends.items()}}


def _line(owner: str, name: str, value: object) -> str:
    shown = "(not known here)" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    return f"{owner + '.' + name:<36}{shown}"
