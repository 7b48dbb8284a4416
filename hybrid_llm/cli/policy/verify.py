"""`hybrid-llm policy verify`: search a bounded world for requests that reach a location their tags do not allow."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from hybrid_llm.cli.arguments import POLICY_HELP, Command, add_backends, add_json, policy_loader
from hybrid_llm.cli.terminal import Exit, output
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location
from hybrid_llm.lab.verify.report import UNTAGGED, Claim, Verification, Violation
from hybrid_llm.lab.verify.search import verify
from hybrid_llm.policies import Policy
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.config import load_config

_NONE: Final = "none"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", metavar="POLICY", help=POLICY_HELP)
    parser.add_argument(
        "--claim",
        action="append",
        default=[],
        metavar="TAG=LOCATION",
        help="also verify that requests with TAG reach only LOCATION (edge, cloud or edge,cloud); `none` is no tag",
    )
    add_backends(parser)
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    policy = policy_loader(args)(args.policy)
    claims = [_claim(text, policy) for text in args.claim]
    # The configuration adds tags to every request.
    defaults = load_config(args.config).defaults.privacy if args.config is not None else frozenset()
    report = verify(policy, claims=claims, defaults=defaults)
    output(_record(report), _lines(args.policy, report), as_json=args.json)
    return Exit.OK if report.holds else Exit.VIOLATED


def _claim(text: str, policy: Policy) -> Claim:
    tag, _, locations = text.partition("=")
    if tag != _NONE and tag not in policy.tags:
        raise InvalidRequest(f"--claim: no tag {tag!r}: {did_you_mean(tag, policy.tags)}", field="claim")
    try:
        reachable = frozenset(Location(location.strip()) for location in locations.split(","))
    except ValueError:
        raise InvalidRequest(f"--claim: {text!r} is not TAG=edge or TAG=edge,cloud", field="claim") from None
    return Claim(tag=UNTAGGED if tag == _NONE else tag, locations=reachable)


def _lines(name: str, report: Verification) -> Iterator[str]:
    yield f"{name}: policy {report.policy} ({report.digest})"
    yield from report.scope.lines()
    width = max(len(statement.tag) for statement in report.statements)
    for statement in report.statements:
        if statement.violation is None:
            yield f"  holds     {statement.tag:<{width}}  {statement.text()}"
        else:
            yield f"  VIOLATED  {statement.tag}"
            yield from _steps(statement.violation)
    for claim, violation in report.claims:
        state = "holds   " if violation is None else "VIOLATED"
        yield f"  {state}  claim: {claim.tag} reaches only {' and '.join(sorted(claim.locations))}"
        yield from _steps(violation)
    yield from (f"note: {note}" for note in report.notes)


def _steps(violation: Violation | None) -> Iterator[str]:
    if violation is not None:
        yield f"            expected: {violation.promise}"
        yield from (f"            {number}. {step}" for number, step in enumerate(violation.steps, 1))


def _record(report: Verification) -> dict[str, object]:
    return {
        "policy": report.policy,
        "digest": report.digest,
        "holds": report.holds,
        "backends": report.backends,
        "tags": [
            {
                "tag": statement.tag,
                "as_it_is": statement.locations(),
                "with_pseudonyms": statement.locations(pseudonyms=True),
                "answers_cached": statement.locations(cached=True),
                "violation": statement.violation,
            }
            for statement in report.statements
        ],
        "claims": [
            {"tag": claim.tag, "locations": sorted(claim.locations), "violation": violation}
            for claim, violation in report.claims
        ],
        "scope": report.scope,
        "notes": report.notes,
    }


VERIFY: Final = Command(
    about="Verify, for each tag, which locations its requests can reach and in which form: over rules, fallbacks,\n"
    "retries, hedges, continuations and caches. The search runs the real guard, policy and attempts over every case\n"
    "of a bounded world, and prints what was searched and what was not. A violation is shown as the shortest sequence\n"
    "of steps that leads to it.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm policy verify clinic.yaml",
        "hybrid-llm policy verify clinic.yaml --config hybrid.yaml --json",
        "hybrid-llm policy verify clinic.yaml --claim phi=edge --claim none=edge",
    ),
    codes=(Exit.CONFIG, Exit.VIOLATED),
    meanings={Exit.OK: "no violation was found", Exit.VIOLATED: "a violation was found"},
)
