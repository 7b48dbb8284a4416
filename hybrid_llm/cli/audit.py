"""`hybrid-llm audit`: make the key of an audit log, verify a log, and show what is in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.heads import SignedHead
from hybrid_llm.backends.audit.keys import AuditPublicKey, make_audit_key
from hybrid_llm.backends.audit.log import AuditLogs
from hybrid_llm.backends.audit.verify import Verification, entries, verify
from hybrid_llm.cli.arguments import DATABASE_FORMS, Command, Group, add_json, checked, database
from hybrid_llm.cli.terminal import Exit, note, print_json, table
from hybrid_llm.core.errors import ConfigError, InvalidRequest

_CODES: Final = (Exit.FAILURE, Exit.CONFIG)

AUDIT: Final = Group(
    about="Audit logs record each request without its texts: who asked, when, under which tags and policy, and what\n"
    "came of it. A record that was changed, removed or moved is named by `verify`, which needs the public key alone.",
    commands={
        "init": ("hybrid_llm.cli.audit:INIT", "make the key of a log"),
        "verify": ("hybrid_llm.cli.audit:VERIFY", "check that logs are what was written"),
        "show": ("hybrid_llm.cli.audit:SHOW", "show records"),
        "head": ("hybrid_llm.cli.audit:HEAD", "print the signed head, to be stored elsewhere"),
    },
    examples=(
        "hybrid-llm audit init audit.key",
        "hybrid-llm audit verify audit.db --key audit.key.pub",
        "hybrid-llm audit show audit.db --identity spiffe://hybrid-llm/client/app",
    ),
    codes=_CODES,
)


def _init_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="where the private key goes; FILE.pub gets the public one"
    )


def _init(args: argparse.Namespace) -> int:
    public = make_audit_key(args.file)
    print(f"created {args.file} and {public}")
    note("keep the private key with the node or app that writes the log, and give the public one to who verifies it")
    return Exit.OK


INIT: Final = Command(
    about="Make the key with which the heads of a log are signed (Ed25519). An existing file is never overwritten.",
    options=_init_options,
    run=_init,
    examples=("hybrid-llm audit init audit.key",),
    codes=_CODES,
)


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=database, metavar="FILE|URL", help=f"the SQLite file, or {DATABASE_FORMS}")
    parser.add_argument("--name", metavar="NAME", help="one log of those in the database; all by default")


def _verify_options(parser: argparse.ArgumentParser) -> None:
    _add_log(parser)
    parser.add_argument(
        "--key", type=Path, action="append", required=True, metavar="FILE", help="a public key; repeatable"
    )
    parser.add_argument(
        "--head", type=Path, action="append", default=[], metavar="FILE", help="a head from outside the log; repeatable"
    )
    add_json(parser)


def _verify(args: argparse.Namespace) -> int:
    keys = [AuditPublicKey.load(path) for path in args.key]
    known = [head for path in args.head for head in _heads(path)]
    with closing(AuditLogs(args.log)) as logs:
        names = _names(logs, args)
        if missing := {head.log for head in known} - set(names):
            raise ConfigError(f"a given head is of the log {min(missing)}, which is not there")
        checked_logs = [verify(logs, name, keys, known) for name in names]
    if args.json:
        print_json([_verdict(each) for each in checked_logs])
    else:
        print("\n".join(line for each in checked_logs for line in _lines(each, anchored=bool(known))))
    return Exit.FAILURE if any(each.findings for each in checked_logs) else Exit.OK


VERIFY: Final = Command(
    about="Check every record of a log, and name those that were changed, removed, moved or added. Records that were\n"
    "cut off at the end are found with a head that was stored elsewhere: see `hybrid-llm audit head`.",
    options=_verify_options,
    run=_verify,
    examples=(
        "hybrid-llm audit verify audit.db --key audit.key.pub",
        "hybrid-llm audit verify audit.db --key audit.key.pub --head head-2026-12-01.json",
    ),
    codes=_CODES,
    meanings={Exit.FAILURE: "a log is not what was written"},
)


def _show_options(parser: argparse.ArgumentParser) -> None:
    _add_log(parser)
    for option in ("identity", "tenant", "request-id", "outcome"):
        parser.add_argument(f"--{option}", metavar="TEXT", help=f"only records with this {option.replace('-', ' ')}")
    parser.add_argument(
        "--since", type=checked(_instant), metavar="TIME", help="from then on: 2026-12-01, or with T14:30"
    )
    add_json(parser)


def _instant(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{text}` is not a time such as 2026-12-01 or 2026-12-01T14:30") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _show(args: argparse.Namespace) -> int:
    with closing(AuditLogs(args.log)) as logs:
        rows = [
            (name, number, entry)
            for name in _names(logs, args)
            for number, entry in entries(logs, name)
            if _wanted(entry, args)
        ]
    if args.json:
        print_json([{"log": name, "number": number, **entry.to_dict()} for name, number, entry in rows])
    elif not rows:
        note("no such records")
    else:
        columns = ("log", "number", "time", "event", "identity", "tenant", "address", "tags", "tokens", "outcome")
        table(columns, [_row(*row) for row in rows], numbers={"number", "tokens"})
    return Exit.OK


SHOW: Final = Command(
    about="Show records, unverified. Times are in UTC. `tokens` are those of prompt and answer.",
    options=_show_options,
    run=_show,
    examples=(
        "hybrid-llm audit show audit.db --since 2026-12-01",
        "hybrid-llm audit show audit.db --tenant acme --json",
    ),
    codes=_CODES,
)


def _head(args: argparse.Namespace) -> int:
    with closing(AuditLogs(args.log)) as logs:
        heads = [head for name in _names(logs, args) if (head := logs.head(name)) is not None]
    for head in heads:
        print(head.to_json())
    if not heads:
        note("the log is empty")
    return Exit.OK


HEAD: Final = Command(
    about="Print the last signed head of each log, one line of JSON. Store it where who can write the log cannot.",
    options=_add_log,
    run=_head,
    examples=("hybrid-llm audit head audit.db",),
    codes=_CODES,
)


def _names(logs: AuditLogs, args: argparse.Namespace) -> list[str]:
    names = logs.names()
    if args.name is not None and args.name not in names:
        raise ConfigError(f"there is no log {args.name}; there are: {', '.join(names) or 'none'}")
    return names if args.name is None else [args.name]


def _heads(path: Path) -> Iterator[SignedHead]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__})", path=str(path)) from None
    for line in filter(str.strip, text.splitlines()):
        try:
            yield SignedHead.from_json(line)
        except ValueError:
            raise InvalidRequest(
                f"{path}: a line is no head: `hybrid-llm audit head` prints one", field="head"
            ) from None


def _wanted(entry: AuditEntry, args: argparse.Namespace) -> bool:
    asked = {name: getattr(args, name) for name in ("identity", "tenant", "request_id", "outcome")}
    same = all(value is None or getattr(entry, name) == value for name, value in asked.items())
    return same and (args.since is None or entry.at_ms >= args.since)


def _row(log: str, number: int, entry: AuditEntry) -> tuple[str, ...]:
    at = f"{datetime.fromtimestamp(entry.at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    tokens = f"{entry.prompt_tokens} + {entry.completion_tokens}" if entry.event == "end" else ""
    outcome = f"{entry.lost} records lost" if entry.event == "gap" else entry.outcome
    if entry.count:
        outcome = f"{outcome}, {entry.count} times"
    who = (entry.identity, entry.tenant, entry.address, ", ".join(entry.tags))
    return (log, str(number), at, entry.event, *who, tokens, outcome)


def _lines(found: Verification, *, anchored: bool) -> Iterator[str]:
    yield from (f"{found.log}: {finding}" for finding in found.findings)
    if not found.findings:
        yield f"{found.log}: {found.records:,} records, as they were written"
        if not anchored:
            yield f"{found.log}: only a --head from elsewhere shows whether records were cut off at the end"
    if found.unfinished:
        yield f"{found.log}: {len(found.unfinished)} requests have no end: they run, or their process was killed"
    if found.lost:
        yield f"{found.log}: {found.lost} records could not be written, and the log says so"


def _verdict(found: Verification) -> dict[str, object]:
    return {
        "log": found.log,
        "records": found.records,
        "findings": [
            {"fault": each.fault, "first": each.first, "last": each.last, "detail": each.detail}
            for each in found.findings
        ],
        "unfinished": len(found.unfinished),
        "lost": found.lost,
        "head": json.loads(found.head.to_json()) if found.head is not None else None,
    }
