"""`hybrid-llm spend`: show what each tenant has spent on each day, from the spend ledger."""

from __future__ import annotations

import argparse
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Final

from hybrid_llm.cli.arguments import Command, add_json, checked, database, read_config
from hybrid_llm.cli.terminal import Exit, note, print_json, table
from hybrid_llm.core.database import DatabaseAddress
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.savings import UNIT
from hybrid_llm.router.spending.ledger import Entry, LedgerError
from hybrid_llm.router.spending.stored import DatabaseLedger


def _options(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the hybrid.yaml whose `spend` names the ledger; default: the file in HYBRID_LLM_CONFIG",
    )
    source.add_argument("--file", type=database, metavar="FILE|URL", help="the ledger itself")
    parser.add_argument("--tenant", metavar="NAME", help="only this tenant")
    parser.add_argument("--day", type=checked(_day), metavar="YYYY-MM-DD", help="only this day")
    add_json(parser)


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"`{text}` is not a day such as 2026-11-25") from None


def _run(args: argparse.Namespace) -> int:
    entries = [
        entry
        for entry in _entries(_ledger(args))
        if args.tenant in (None, entry.tenant) and args.day in (None, entry.day)
    ]
    if args.json:
        print_json([_record(entry) for entry in entries])
    elif not entries:
        note("no spending is recorded")
    else:
        columns = ("day", "tenant", "requests", "spent", "reserved", "currency")
        table(columns, [_row(entry) for entry in entries], numbers={"requests", "spent", "reserved"})
    return Exit.OK


def _ledger(args: argparse.Namespace) -> DatabaseAddress:
    if args.file is not None:
        if isinstance(args.file, Path) and not args.file.exists():
            raise ConfigError(f"{args.file} does not exist; the key `spend` of hybrid.yaml names the ledger")
        where: DatabaseAddress = args.file
        return where
    config = read_config(args.config)
    if config is None:
        raise ConfigError("no ledger: give --file spend.db, or --config hybrid.yaml with `spend: {file: spend.db}`")
    if config.spend is None:
        message = f"{config.name} names no ledger: add `spend: {{file: spend.db}}`; without it spending is not stored"
        raise ConfigError(message, path=config.name)
    return config.spend


def _entries(where: DatabaseAddress) -> list[Entry]:
    if isinstance(where, Path) and not where.exists():
        return []
    try:
        with closing(DatabaseLedger(where)) as ledger:
            return ledger.entries()
    except LedgerError as error:
        raise ConfigError(f"the spend ledger cannot be read: {error}") from None


def _record(entry: Entry) -> dict[str, object]:
    return {
        "day": entry.day,
        "tenant": entry.tenant or None,
        "currency": entry.currency or None,
        "spent": entry.spent / UNIT,
        "reserved": entry.reserved / UNIT,
        "requests": entry.requests,
    }


def _row(entry: Entry) -> tuple[str, ...]:
    amounts = (f"{amount / UNIT:.6f}" for amount in (entry.spent, entry.reserved))
    return (entry.day, entry.tenant or "(none)", str(entry.requests), *amounts, entry.currency)


SPEND: Final = Command(
    about="Show what each tenant has spent on each day (UTC), and what running requests have reserved.",
    options=_options,
    run=_run,
    examples=("hybrid-llm spend --config hybrid.yaml", "hybrid-llm spend --file spend.db --tenant acme --json"),
    codes=(Exit.CONFIG, Exit.FAILURE),
)
