"""`hybrid-llm policy diff`: show which recorded requests another policy routes differently, and why."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hybrid_llm.cli.arguments import POLICY_HELP, Command, add_backends, add_json, at_least, policy_loader
from hybrid_llm.cli.terminal import Exit, print_json, printable, table
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.lab.diff import Change, Difference, Verdict, compare
from hybrid_llm.lab.recordings import read_recordings

_ROWS: Final = 40
_COLUMNS: Final = ("!", "request", "tags", "order", "rule", "why")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help=POLICY_HELP)
    parser.add_argument("new", metavar="NEW", help="the policy to compare it with")
    parser.add_argument(
        "--trace", type=Path, action="append", required=True, metavar="FILE", help="recorded decisions; repeatable"
    )
    parser.add_argument("--limit", type=at_least(0), default=_ROWS, metavar="N", help=f"maximum rows to show ({_ROWS})")
    add_backends(parser)
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    recordings = [recording for path in args.trace for recording in read_recordings(path)]
    if not recordings:
        raise ConfigError(f"{args.trace[0]} contains no recorded decision", path=str(args.trace[0]))
    # In the order in which they were declared.
    recorded = {name: state.location for one in recordings for name, state in one.signals.backends.items()}
    old, new = map(policy_loader(args, recorded), (args.old, args.new))
    difference = compare(old, new, ((recording.metadata, recording.signals) for recording in recordings))
    if args.json:
        print_json(_record(difference))
    else:
        if difference.changes:
            table(_COLUMNS, [_row(change) for change in difference.changes[: args.limit]])
        print(printable("\n".join(_summary(difference, args.limit))))
    return Exit.FAILURE if difference.changes else Exit.OK


def _summary(difference: Difference, limit: int) -> Iterator[str]:
    if len(difference.changes) > limit:
        yield f"... and {len(difference.changes) - limit} more; --limit shows them, --json prints all"
    yield "first backend, old -> new:"
    for old, new, count in difference.routes:
        yield f"  {count:>7}  {old} -> {new}" + ("" if old == new else "   changed")
    rest = len(difference.changes) - difference.elsewhere
    yield (
        f"{difference.elsewhere} of {difference.total} requests would go to another backend; "
        f"{rest} more only if a backend fails"
    )
    exposed = sum(bool(change.exposed) for change in difference.changes)
    if exposed:
        yield f"! {exposed} could reach a location that was excluded before"


def _row(change: Change) -> tuple[str, ...]:
    metadata = change.metadata
    return (
        "!" if change.exposed else " ",
        metadata.request_id[:12] or "-",
        ",".join(sorted(metadata.privacy)) or "-",
        f"{change.old.route} -> {change.new.route}",
        f"{change.old.rule or '-'} -> {change.new.rule or '-'}",
        change.why,
    )


def _record(difference: Difference) -> dict[str, object]:
    return {
        "total": difference.total,
        "elsewhere": difference.elsewhere,
        "changed": len(difference.changes),
        "exposed": sum(bool(change.exposed) for change in difference.changes),
        "routes": [{"old": old, "new": new, "count": count} for old, new, count in difference.routes],
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


DIFF: Final = Command(
    about="Decide recorded requests with two policies, and show which would be routed differently, and why.\n"
    "Decisions are recorded with `record: {path: decisions.jsonl}` in hybrid.yaml, without the text of requests.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm policy diff clinic.yaml clinic-new.yaml --trace decisions.jsonl",
        "hybrid-llm policy diff balanced latency-first --trace monday.jsonl --trace tuesday.jsonl --json",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG),
    meanings={Exit.OK: "no request is routed differently", Exit.FAILURE: "some requests are routed differently"},
)
