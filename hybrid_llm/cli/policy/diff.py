"""`hybrid-llm policy diff`: which recorded requests would go elsewhere under another policy, and why."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_json, describe
from hybrid_llm.cli.policy.shared import add_places, detectors_of, load_named_policy, locations_of
from hybrid_llm.cli.terminal import Exit, print_json, printable
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location

if TYPE_CHECKING:
    from hybrid_llm.lab.diff import Change, Difference, Verdict
    from hybrid_llm.router.observability.records import Recording


_ROWS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Decide recorded requests under two policies, and tell which would go elsewhere, and why.\n"
        "Recordings are made by `record: {path: decisions.jsonl}` in hybrid.yaml; they hold no text of a request.",
        examples=[
            "hybrid-llm policy diff clinic.yaml clinic-new.yaml --trace decisions.jsonl",
            "hybrid-llm policy diff balanced latency-first --trace monday.jsonl --trace tuesday.jsonl --json",
        ],
        codes=(Exit.FAILURE, Exit.CONFIG),
        meanings={Exit.OK: "every request goes where it went", Exit.FAILURE: "some requests would go another way"},
    )
    parser.add_argument("old", metavar="OLD", help="a policy file or the name of a built-in policy")
    parser.add_argument("new", metavar="NEW", help="the same, for the policy that is to come")
    parser.add_argument(
        "--trace", type=Path, action="append", required=True, metavar="FILE", help="recorded decisions; repeat it"
    )
    parser.add_argument("--limit", type=int, default=_ROWS, metavar="N", help=f"most rows to show; default {_ROWS}")
    add_places(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compare, and tell."""
    from hybrid_llm.lab.diff import compare
    from hybrid_llm.router.observability.records import read_recordings

    recordings = [recording for path in args.trace for recording in read_recordings(path)]
    if not recordings:
        raise ConfigError(f"{args.trace[0]}: there is no recorded decision", path=str(args.trace[0]))
    places = locations_of(args) if args.config or args.backend else _recorded(recordings)
    old, new = (load_named_policy(name, places, detectors_of(args)) for name in (args.old, args.new))
    difference = compare(old, new, ((recording.metadata, recording.signals) for recording in recordings))
    if args.json:
        print_json(_record(difference))
    else:
        print(printable("\n".join(_lines(difference, args.limit))))
    return Exit.FAILURE if difference.changes else Exit.OK


def _recorded(recordings: list[Recording]) -> Mapping[str, Location]:
    """The backends that were there, in the order in which they were declared."""
    return {name: state.location for one in recordings for name, state in one.signals.backends.items()}


def _lines(difference: Difference, limit: int) -> Iterator[str]:
    if difference.changes:
        yield from _table([_cells(change) for change in itertools.islice(difference.changes, limit)])
    if len(difference.changes) > limit:
        yield f"... and {len(difference.changes) - limit} more; --limit shows them, --json has all"
    yield "asked first, old -> new:"
    for was, now, count in difference.routes:
        yield f"  {count:>7}  {was} -> {now}" + ("" if was == now else "   elsewhere")
    only = len(difference.changes) - difference.elsewhere
    yield f"{difference.elsewhere} of {difference.total} requests would go elsewhere; {only} more only when one fails"
    exposed = sum(bool(change.exposed) for change in difference.changes)
    if exposed:
        yield f"! {exposed} may reach a place that they could not reach before"


def _cells(change: Change) -> tuple[str, ...]:
    metadata = change.metadata
    return (
        "!" if change.exposed else " ",
        metadata.request_id[:12] or "-",
        ",".join(sorted(metadata.privacy)) or "-",
        f"{change.old.way} -> {change.new.way}",
        f"{change.old.rule or '-'} -> {change.new.rule or '-'}",
        change.why,
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    shown = [(" ", "request", "tags", "order", "rule", "why"), *rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    for row in shown:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _record(difference: Difference) -> dict[str, object]:
    return {
        "total": difference.total,
        "elsewhere": difference.elsewhere,
        "changed": len(difference.changes),
        "exposed": sum(bool(change.exposed) for change in difference.changes),
        "routes": [{"old": was, "new": now, "count": count} for was, now, count in difference.routes],
        "changes": [
            {
                "request": change.metadata.request_id,
                "tags": sorted(change.metadata.privacy),
                "old": _verdict(change.old),
                "new": _verdict(change.new),
                "elsewhere": change.elsewhere,
                "exposed": list(change.exposed),
                "why": change.why,
            }
            for change in difference.changes
        ],
    }


def _verdict(verdict: Verdict) -> dict[str, object]:
    return {
        "order": verdict.order,
        "rule": verdict.rule,
        "because": verdict.because,
        "refused": verdict.refused or None,
    }
