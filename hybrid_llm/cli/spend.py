"""`hybrid-llm spend`: what each tenant has spent on each day, out of the ledger. It books nothing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from hybrid_llm.cli.arguments import add_json, describe
from hybrid_llm.cli.terminal import Exit, note, print_json, printable
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.router.spending.ledger import UNIT, Entry, LedgerError

_NOBODY: Final = "(none)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Show what each tenant has spent on each day (UTC), and what requests in flight have reserved.",
        examples=["hybrid-llm spend --config hybrid.yaml", "hybrid-llm spend --file spend.db --tenant acme --json"],
        codes=(Exit.CONFIG, Exit.FAILURE),
    )
    places = parser.add_mutually_exclusive_group()
    places.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the hybrid.yaml whose `spend` names the ledger; or HYBRID_LLM_CONFIG",
    )
    places.add_argument("--file", type=Path, metavar="FILE", help="the ledger itself")
    parser.add_argument("--tenant", metavar="NAME", help="this tenant alone")
    parser.add_argument("--day", metavar="YYYY-MM-DD", help="this day alone")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Read, and show."""
    entries = [entry for entry in _entries(_ledger(args)) if _wanted(entry, args)]
    if args.json:
        print_json([_record(entry) for entry in entries])
    elif not entries:
        note("nothing has been spent")
    else:
        print("\n".join(_table(entries)))
    return Exit.OK


def _ledger(args: argparse.Namespace) -> Path:
    if args.file is not None:
        return Path(args.file)
    from hybrid_llm.router.config import load_config
    from hybrid_llm.router.default import CONFIG_VARIABLE

    path = args.config or os.environ.get(CONFIG_VARIABLE)
    if not path:
        raise ConfigError("name the ledger: --file spend.db, or --config hybrid.yaml with `spend: {file: spend.db}`")
    spend = load_config(Path(path)).spend
    if spend is None:
        message = f"{path} names no ledger: without `spend: {{file: spend.db}}` spending is forgotten with the process"
        raise ConfigError(message, path=str(path))
    return spend


def _entries(path: Path) -> list[Entry]:
    from hybrid_llm.router.spending.file import FileLedger

    if not path.exists():
        return []
    ledger = FileLedger(path)
    try:
        return ledger.entries()
    except LedgerError as error:
        raise ConfigError(f"{path}: the spend ledger cannot be read: {error}", path=str(path)) from None
    finally:
        ledger.close()


def _wanted(entry: Entry, args: argparse.Namespace) -> bool:
    return args.tenant in (None, entry.tenant) and args.day in (None, entry.day)


def _record(entry: Entry) -> dict[str, object]:
    return {
        "day": entry.day,
        "tenant": entry.tenant or None,
        "currency": entry.currency or None,
        "spent": entry.spent / UNIT,
        "reserved": entry.reserved / UNIT,
        "requests": entry.requests,
    }


def _table(entries: list[Entry]) -> list[str]:
    width = max(len("tenant"), *(len(entry.tenant or _NOBODY) for entry in entries))
    lines = [f"{'day':<12}{'tenant':<{width + 2}}{'requests':>9}{'spent':>14}{'reserved':>14}"]
    for entry in entries:
        name = printable(entry.tenant or _NOBODY)
        amounts = f"{entry.spent / UNIT:>14.6f}{entry.reserved / UNIT:>14.6f}"
        lines.append(f"{entry.day:<12}{name:<{width + 2}}{entry.requests:>9}{amounts} {entry.currency}".rstrip())
    return lines
