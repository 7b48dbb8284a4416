"""`hybrid-llm policy prove`: for each tag where its requests can go, or the shortest way that breaks it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_json, describe
from hybrid_llm.cli.policy.shared import add_places, load_named_policy, locations_of
from hybrid_llm.cli.terminal import Exit, print_json, printable, record
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location
from hybrid_llm.policies.reader.source import did_you_mean

if TYPE_CHECKING:
    from hybrid_llm.lab.verify.report import Claim, Verification, Violation
    from hybrid_llm.policies import Policy


_NONE = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Prove, for each tag, which places its requests can reach and in which form: over rules, fallbacks, retries,\n"
        "hedges, continuations and caches. The guard, the policy and the attempts of this library are run, over every\n"
        "case of a bounded world; the bound is told. What breaks a promise is shown as steps, the shortest way first.",
        examples=[
            "hybrid-llm policy prove clinic.yaml",
            "hybrid-llm policy prove clinic.yaml --config hybrid.yaml --json",
            "hybrid-llm policy prove clinic.yaml --claim phi=edge --claim none=edge",
        ],
        codes=(Exit.CONFIG, Exit.UNPROVED),
        meanings={Exit.OK: "everything is proved", Exit.UNPROVED: "a promise or a claim is broken"},
    )
    parser.add_argument("policy", metavar="POLICY", help="a policy file or the name of a built-in policy")
    parser.add_argument(
        "--claim",
        action="append",
        default=[],
        metavar="TAG=PLACE",
        help="prove too that requests with TAG reach only PLACE (edge, cloud, or edge,cloud); none stands for no tag",
    )
    add_places(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prove, and tell."""
    from hybrid_llm.lab.verify.search import verify

    policy = load_named_policy(args.policy, locations_of(args))
    claims = [_claim(text, policy) for text in args.claim]
    report = verify(policy, claims=claims, defaults=_defaults(args))
    if args.json:
        print_json(_record(report))
    else:
        print(printable("\n".join(_lines(args.policy, report))))
    return Exit.OK if report.holds else Exit.UNPROVED


def _defaults(args: argparse.Namespace) -> frozenset[str]:
    """The tags that the configuration gives every request."""
    if args.config is None:
        return frozenset()
    from hybrid_llm.router.config import load_config

    return load_config(args.config).defaults.privacy


def _claim(text: str, policy: Policy) -> Claim:
    from hybrid_llm.lab.verify.report import UNTAGGED, Claim

    tag, _, places = text.partition("=")
    if tag != _NONE and tag not in policy.tags:
        raise InvalidRequest(f"--claim: there is no tag {tag!r}: {did_you_mean(tag, policy.tags)}", field="claim")
    try:
        named = frozenset(Location(place.strip()) for place in places.split(","))
    except ValueError:
        raise InvalidRequest(f"--claim: {text!r} is not TAG=edge or TAG=edge,cloud", field="claim") from None
    return Claim(tag=UNTAGGED if tag == _NONE else tag, places=named)


def _lines(name: str, report: Verification) -> Iterator[str]:
    yield f"{name}: policy {report.policy} ({report.digest})"
    yield from report.scope.lines()
    width = max(len(statement.tag) for statement in report.statements)
    for statement in report.statements:
        state = "proved" if statement.violation is None else "BROKEN"
        yield f"  {state}  {statement.tag:<{width}}  {statement.text() if statement.violation is None else ''}".rstrip()
        yield from _steps(statement.violation)
    for claim, broken in report.claims:
        state = "proved" if broken is None else "BROKEN"
        yield f"  {state}  claim: {claim.tag} reaches only {' and '.join(sorted(claim.places))}"
        yield from _steps(broken)
    yield from (f"note: {note}" for note in report.notes)


def _steps(broken: Violation | None) -> Iterator[str]:
    if broken is not None:
        yield f"          promised: {broken.promise}"
        yield from (f"          {number}. {step}" for number, step in enumerate(broken.steps, 1))


def _record(report: Verification) -> dict[str, object]:
    return {
        "policy": report.policy,
        "digest": report.digest,
        "proved": report.holds,
        "backends": dict(report.backends),
        "tags": [
            {
                "tag": statement.tag,
                "proved": statement.violation is None,
                "as_it_is": statement.places(),
                "with_pseudonyms": statement.places(pseudonyms=True),
                "answers_kept": statement.places(kept=True),
                "broken": _broken(statement.violation),
            }
            for statement in report.statements
        ],
        "claims": [
            {"tag": claim.tag, "places": sorted(claim.places), "proved": broken is None, "broken": _broken(broken)}
            for claim, broken in report.claims
        ],
        "scope": record(report.scope),
        "notes": list(report.notes),
    }


def _broken(broken: Violation | None) -> dict[str, object] | None:
    return None if broken is None else {"promise": broken.promise, "steps": list(broken.steps)}
