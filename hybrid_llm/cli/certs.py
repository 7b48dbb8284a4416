"""`hybrid-llm certs`: a private authority, and certificates for nodes and clients of small fleets."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_json, describe, subcommands
from hybrid_llm.cli.terminal import Exit, note, print_json, record

if TYPE_CHECKING:
    from hybrid_llm.backends.wire.certificates import CertificateInfo


_MOST_DAYS = 36_500
_CODES = (Exit.FAILURE, Exit.CONFIG)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands and their help."""
    describe(
        parser,
        "Make a private certificate authority and certificates, and read them. The authority's key, ca.key,\n"
        "stays where it was made: a node or an app needs ca.pem and its own pair.",
        examples=[
            "hybrid-llm certs init certs",
            "hybrid-llm certs issue certs --name node --kind node --host node.example --host 127.0.0.1",
            "hybrid-llm certs issue certs --name app --kind client",
        ],
        codes=_CODES,
    )
    group = subcommands(parser, "action")
    _add_init(group.add_parser("init", help="make a private authority", allow_abbrev=False))
    _add_issue(group.add_parser("issue", help="issue or renew a certificate", allow_abbrev=False))
    _add_inspect(group.add_parser("inspect", help="tell what a certificate says", allow_abbrev=False))


def _add_init(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Make ca.pem and ca.key in DIR. An authority that is there already is never overwritten.",
        examples=["hybrid-llm certs init certs", "hybrid-llm certs init certs --days 1825"],
        codes=_CODES,
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--days", type=_days, default=3650, metavar="D", help="how long it is valid (3650)")
    parser.set_defaults(act=_init)


def _add_issue(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Issue NAME.pem and NAME.key from the authority in DIR. A pair of this name is renewed; a node takes\n"
        "the new one without a restart.",
        examples=[
            "hybrid-llm certs issue certs --name node --kind node --host node.example --host 127.0.0.1",
            "hybrid-llm certs issue certs --name app --kind client --days 90",
        ],
        codes=_CODES,
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--name", required=True, metavar="N", help="the holder: a-z, 0-9, dot, dash, underscore")
    parser.add_argument("--kind", required=True, choices=("node", "client"), help="a node serves, a client calls")
    parser.add_argument("--host", action="append", default=[], metavar="H", help="a node's DNS name or address; repeat")
    parser.add_argument("--days", type=_days, default=365, metavar="D", help="how long it is valid (365)")
    parser.set_defaults(act=_issue)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Tell what the first certificate of a PEM file says.",
        examples=["hybrid-llm certs inspect certs/node.pem", "hybrid-llm certs inspect certs/node.pem --json"],
        codes=_CODES,
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    add_json(parser)
    parser.set_defaults(act=_inspect)


def _days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{days} is not from 1 to {_MOST_DAYS}")
    return days


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    code: int = args.act(args)
    return code


def _init(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.wire.certificates import make_authority

    facts = make_authority(args.folder, days=args.days)
    print(f"made {args.folder / 'ca.pem'} and {args.folder / 'ca.key'}, valid until {facts.not_after:%Y-%m-%d}")
    note("keep ca.key here and private; copy ca.pem to every node and app")
    note(f"next: hybrid-llm certs issue {args.folder} --name node --kind node --host 127.0.0.1")
    return Exit.OK


def _issue(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.wire.certificates import issue

    verb = "renewed" if (args.folder / f"{args.name}.pem").exists() else "made"
    facts = issue(args.folder, args.name, kind=args.kind, hosts=args.host, days=args.days)
    print(f"{verb} {args.folder / args.name}.pem and .key for {facts.identity}, valid until {facts.not_after:%Y-%m-%d}")
    return Exit.OK


def _inspect(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.wire.certificates import inspect

    facts = inspect(args.file)
    if args.json:
        print_json({**record(facts), "identity": facts.identity})
    else:
        print(facts_text(facts))
    return Exit.OK


def facts_text(facts: CertificateInfo) -> str:
    """A certificate as a person reads it."""
    left = (facts.not_after - datetime.now(UTC)).days
    state = f"{left} days left" if left >= 0 else f"expired {-left} days ago"
    use = "authority" if facts.authority else " and ".join(facts.kinds) or "nothing here"
    return "\n".join(
        [
            f"subject   {facts.subject}",
            f"issuer    {facts.issuer}",
            f"use       {use}",
            f"names     {', '.join(facts.sans) or 'none'}",
            f"valid     {facts.not_before:%Y-%m-%d %H:%M} to {facts.not_after:%Y-%m-%d %H:%M} UTC ({state})",
            f"serial    {facts.serial}",
        ]
    )
