"""`hybrid-llm certs renew` and `certs revoke`: the later life of the certificates of a private authority."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hybrid_llm.backends.wire.certificates import CertificateInfo, inspect, issue, issued
from hybrid_llm.backends.wire.revocation import CRL_NAME, REASONS, revoke
from hybrid_llm.cli.arguments import Command, at_least, checked
from hybrid_llm.cli.terminal import Exit, note
from hybrid_llm.core.errors import ConfigError

_CODES: Final = (Exit.FAILURE, Exit.CONFIG)
_MAX_DAYS: Final = 36_500


def _renew_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--name", action="append", default=[], metavar="N", help="this certificate; repeatable (all)")
    parser.add_argument(
        "--within",
        type=at_least(0, _MAX_DAYS),
        metavar="D",
        help="only those that expire within D days, as a timer asks",
    )
    parser.add_argument("--days", type=at_least(1, _MAX_DAYS), default=365, metavar="D", help="days of validity (365)")


def _renew(args: argparse.Namespace) -> int:
    found = dict(_named(args.folder, args.name) if args.name else _all(args.folder))
    limit = None if args.within is None else datetime.now(UTC) + timedelta(days=args.within)
    due = {name: facts for name, facts in found.items() if limit is None or facts.not_after <= limit}
    for name, facts in due.items():
        hosts = [san for san in facts.sans if san != facts.identity]
        made = issue(args.folder, name, kind=facts.kinds[0], hosts=hosts, days=args.days)
        print(f"renewed {args.folder / name}.pem and .key for {made.identity}, valid until {made.not_after:%Y-%m-%d}")
    if not due:
        note(f"nothing to renew: {len(found)} certificates in {args.folder}")
    return Exit.OK


def _named(folder: Path, names: list[str]) -> Iterator[tuple[str, CertificateInfo]]:
    for name in names:
        facts = inspect(folder / f"{name}.pem")
        if not _is_ours(name, facts):
            raise ConfigError(f"{folder / name}.pem is not a certificate that `certs issue` made for {name}")
        yield name, facts


def _all(folder: Path) -> Iterator[tuple[str, CertificateInfo]]:
    """Each pair of the folder, whose names are those of its certificates."""
    for path in sorted(folder.glob("*.pem")):
        if path.stem not in ("ca", Path(CRL_NAME).stem) and path.with_suffix(".key").exists():
            facts = inspect(path)
            if _is_ours(path.stem, facts):
                yield path.stem, facts


def _is_ours(name: str, facts: CertificateInfo) -> bool:
    return len(facts.kinds) == 1 and (facts.identity or "").endswith(f"/{facts.kinds[0]}/{name}")


RENEW: Final = Command(
    about="Issue certificates in DIR anew, with new keys, for the same kind, name and hosts. Nodes and apps that run\n"
    "load them without a restart. The old ones stay valid until they expire: `certs revoke --superseded` ends them.",
    options=_renew_options,
    run=_renew,
    examples=("hybrid-llm certs renew certs --within 30", "hybrid-llm certs renew certs --name node --days 90"),
    codes=_CODES,
)


def _serial(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise ValueError(f"{text!r} is not a serial number in hexadecimal, as `certs inspect` shows it") from None


def _revoke_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--name", action="append", default=[], metavar="N", help="every certificate that was issued for N; repeatable"
    )
    parser.add_argument(
        "--serial", type=checked(_serial), action="append", default=[], metavar="HEX", help="this one; repeatable"
    )
    parser.add_argument("--superseded", action="store_true", help="of --name, all but the one in DIR/N.pem")
    parser.add_argument("--reason", choices=list(REASONS), default="unspecified", help="(unspecified)")
    parser.add_argument(
        "--days",
        type=at_least(1, _MAX_DAYS),
        default=365,
        metavar="D",
        help="days until the list is to be signed again (365)",
    )


def _revoke(args: argparse.Namespace) -> int:
    if args.superseded and not args.name:
        raise ConfigError("--superseded needs --name, whose older certificates it revokes")
    serials = [*args.serial, *(serial for name in args.name for serial in _serials(args.folder, name, args.superseded))]
    reason = "superseded" if args.superseded and args.reason == "unspecified" else args.reason
    entries = revoke(args.folder, serials, reason=reason, days=args.days)
    print(f"signed {args.folder / CRL_NAME}: {len(entries)} certificates are revoked")
    for serial in serials:
        print(f"revoked {serial:x}")
    note(f"copy {args.folder / CRL_NAME} beside ca.pem of every node and app; they load it without a restart")
    return Exit.OK


def _serials(folder: Path, name: str, superseded: bool) -> Iterator[int]:  # noqa: FBT001
    """The serial numbers of what was issued for *name* and has not expired; with *superseded*, not the current one."""
    path = folder / f"{name}.pem"
    current = int(inspect(path).serial, 16) if path.exists() else None
    now = datetime.now(UTC)
    found = {
        int(each.serial, 16)
        for each in issued(folder)
        if each.identity.rpartition("/")[2] == name and datetime.fromisoformat(each.not_after) > now
    }
    if current is not None and not superseded:
        found.add(current)
    elif current is not None:
        found.discard(current)
    if not found and not superseded:
        raise ConfigError(f"nothing was issued for {name} in {folder}; `--serial` names one by its number")
    yield from sorted(found)


REVOKE: Final = Command(
    about="Revoke certificates: add them to crl.pem in DIR, which the authority signs. Nodes refuse their calls\n"
    "and close their connections; apps refuse such nodes. Without --name and --serial it is signed anew as it is.",
    options=_revoke_options,
    run=_revoke,
    examples=(
        "hybrid-llm certs revoke certs --name app --reason key-compromise",
        "hybrid-llm certs revoke certs --name app --superseded",
        "hybrid-llm certs revoke certs --serial 1f3a",
        "hybrid-llm certs revoke certs",
    ),
    codes=_CODES,
)
