"""`hybrid-llm certs seal-key`: make a node's sealing key, and the public key that apps pin."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hybrid_llm.backends.wire.sealing.evidence import report_data
from hybrid_llm.backends.wire.sealing.keys import PRIVATE, PUBLIC, write_key
from hybrid_llm.backends.wire.sealing.suites import HYBRID, SUITES
from hybrid_llm.cli.arguments import Command, at_least
from hybrid_llm.cli.terminal import Exit, note

_MAX_DAYS: Final = 3650


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--name", metavar="N", help="a-z, 0-9, dot, dash, underscore (today's date)")
    parser.add_argument(
        "--suite", choices=tuple(SUITES), default=HYBRID.name, help=f"key exchange ({HYBRID.name}, post-quantum)"
    )
    parser.add_argument(
        "--days", type=at_least(1, _MAX_DAYS), default=90, metavar="D", help="days until the key expires (90)"
    )
    parser.add_argument(
        "--report-data", action="store_true", help="print what a confidential VM's report must hold for this key"
    )


def _run(args: argparse.Namespace) -> int:
    name = args.name or f"{datetime.now(UTC):%Y-%m-%d}"
    key = write_key(args.folder, name, suite=SUITES[args.suite], days=args.days)
    root = args.folder / name
    until = f"{key.not_after:%Y-%m-%d %H:%M} UTC"
    print(f"created {root}{PRIVATE} and {root}{PUBLIC}, {key.suite.name}, valid until {until}")
    print(f"digest sha256:{key.digest.hex()}")
    if args.report_data:
        print(f"report data {report_data(key.digest).hex()}")
    note(f"the node: hybrid-llm serve --sealed {args.folder} ...; it takes a new key without a restart")
    note(f"each app: add {root}{PUBLIC} to the file that `sealed: {{keys: FILE}}` of its backend names")
    return Exit.OK


SEAL_KEY: Final = Command(
    about="Make NAME.seal, which the node keeps, and NAME.seal.pub, which apps pin. A name is never used twice: to\n"
    "rotate, give the new public key to the apps first, then the private one to the node.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm certs seal-key sealing",
        "hybrid-llm certs seal-key sealing --name 2027-q1 --days 120 --suite x25519",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG),
)
