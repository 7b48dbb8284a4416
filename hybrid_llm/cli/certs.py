"""`hybrid-llm certs`: create a private certificate authority and certificates for nodes and clients."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from hybrid_llm.backends.wire.certificates import (
    issue,
    make_authority,
)
from hybrid_llm.cli.arguments import Command, Group, at_least
from hybrid_llm.cli.terminal import Exit, note

_MAX_DAYS: Final = 36_500
_CODES: Final = (Exit.FAILURE, Exit.CONFIG)

CERTS: Final = Group(
    about="Create a private certificate authority and certificates, and inspect them. The authority's key, ca.key,\n"
    "stays where it was created: a node or an app needs only ca.pem and its own certificate and key.",
    commands={
        "init": ("hybrid_llm.cli.certs:INIT", "create a private authority"),
        "issue": ("hybrid_llm.cli.certs:ISSUE", "issue or renew a certificate"),
        "renew": ("hybrid_llm.cli.certs_life:RENEW", "renew certificates that expire soon, as they are"),
        "revoke": ("hybrid_llm.cli.certs_life:REVOKE", "revoke certificates, and sign the list of the revoked ones"),
        "inspect": ("hybrid_llm.cli.certs_inspect:INSPECT", "show what a certificate, list or sealing key says"),
        "seal-key": ("hybrid_llm.cli.certs_seal:SEAL_KEY", "make a sealing key of a node"),
    },
    examples=(
        "hybrid-llm certs init certs",
        "hybrid-llm certs issue certs --name node --kind node --host node.example --host 127.0.0.1",
        "hybrid-llm certs issue certs --name app --kind client",
    ),
    codes=_CODES,
)


def _add_days(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--days", type=at_least(1, _MAX_DAYS), default=default, metavar="D", help=f"days of validity ({default})"
    )


def _init_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    _add_days(parser, 3650)


def _init(args: argparse.Namespace) -> int:
    facts = make_authority(args.folder, days=args.days)
    print(f"created {args.folder / 'ca.pem'} and {args.folder / 'ca.key'}, valid until {facts.not_after:%Y-%m-%d}")
    note("keep ca.key here and private; copy ca.pem to every node and app")
    note(f"next: hybrid-llm certs issue {args.folder} --name node --kind node --host 127.0.0.1")
    return Exit.OK


INIT: Final = Command(
    about="Create ca.pem and ca.key in DIR. An existing authority is never overwritten.",
    options=_init_options,
    run=_init,
    examples=("hybrid-llm certs init certs", "hybrid-llm certs init certs --days 1825"),
    codes=_CODES,
)


def _issue_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--name", required=True, metavar="N", help="the holder: a-z, 0-9, dot, dash, underscore")
    parser.add_argument(
        "--kind",
        required=True,
        choices=("node", "client", "signer"),
        help="of a server, a client, or a signer of models",
    )
    parser.add_argument(
        "--host", action="append", default=[], metavar="H", help="DNS name or IP address of a node; repeatable"
    )
    _add_days(parser, 365)


def _issue(args: argparse.Namespace) -> int:
    verb = "renewed" if (args.folder / f"{args.name}.pem").exists() else "created"
    facts = issue(args.folder, args.name, kind=args.kind, hosts=args.host, days=args.days)
    print(f"{verb} {args.folder / args.name}.pem and .key for {facts.identity}, valid until {facts.not_after:%Y-%m-%d}")
    return Exit.OK


ISSUE: Final = Command(
    about="Issue NAME.pem and NAME.key from the authority in DIR. An existing pair of that name is renewed; a running\n"
    "node loads the new pair without a restart.",
    options=_issue_options,
    run=_issue,
    examples=(
        "hybrid-llm certs issue certs --name node --kind node --host node.example --host 127.0.0.1",
        "hybrid-llm certs issue certs --name app --kind client --days 90",
        "hybrid-llm certs issue certs --name release --kind signer",
    ),
    codes=_CODES,
)
