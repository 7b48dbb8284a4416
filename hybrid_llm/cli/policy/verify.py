"""`hybrid-llm policy prove`: for each tag the proof of where its requests go, or the shortest way that breaks it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_json, describe
from hybrid_llm.cli.policy.shared import add_places, load_named_policy, locations_of
from hybrid_llm.cli.terminal import Exit, print_json, printable
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location
from hybrid_llm.policies.reader.source import did_you_mean

if TYPE_CHECKING:
    from hybrid_llm.lab.verify.records import Broken, Claim, Proof
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
    from hybrid_llm.lab.verify.verify import prove

    policy = load_named_policy(args.policy, locations_of(args))
    claims = [_claim(text, policy) for text in args.claim]
    proof = prove(policy, claims=claims, defaults=_defaults(args))
    if args.json:
        print_json(_record(proof))
    else:
        print(printable("\n".join(_lines(args.policy, proof))))
    return Exit.OK if proof.holds else Exit.UNPROVED


def _defaults(args: argparse.Namespace) -> frozenset[str]:
    """The tags that the configuration gives every request."""
    if args.config is None:
        return frozenset()
    from hybrid_llm.router.config import load_config

    return load_config(args.config).defaults.privacy


def _claim(text: str, policy: Policy) -> Claim:
    from hybrid_llm.lab.verify.records import UNTAGGED, Claim

    tag, _, places = text.partition("=")
    if tag != _NONE and tag not in policy.tags:
        raise InvalidRequest(f"--claim: there is no tag {tag!r}: {did_you_mean(tag, policy.tags)}", field="claim")
    try:
        named = frozenset(Location(place.strip()) for place in places.split(","))
    except ValueError:
        raise InvalidRequest(f"--claim: {text!r} is not TAG=edge or TAG=edge,cloud", field="claim") from None
    return Claim(tag=UNTAGGED if tag == _NONE else tag, places=named)


def _lines(name: str, proof: Proof) -> Iterator[str]:
    yield f"{name}: policy {proof.policy} ({proof.digest})"
    width = max(len(statement.tag) for statement in proof.statements)
    for statement in proof.statements:
        state = "proved" if statement.broken is None else "BROKEN"
        yield f"  {state}  {statement.tag:<{width}}  {statement.text() if statement.broken is None else ''}".rstrip()
        yield from _steps(statement.broken)
    for claim, broken in proof.claims:
        state = "proved" if broken is None else "BROKEN"
        yield f"  {state}  claim: {claim.tag} reaches only {' and '.join(sorted(claim.places))}"
        yield from _steps(broken)
    bound = proof.bound
    yield (
        f"over {bound.judgements} judgements of the guard, {bound.decisions} decisions and "
        f"{bound.runs} requests taken to their end:"
    )
    yield from (f"  {name:<11} {covers}" for name, covers in bound.covers.items())
    yield from (f"note: {note}" for note in proof.notes)


def _steps(broken: Broken | None) -> Iterator[str]:
    if broken is not None:
        yield f"          promised: {broken.promise}"
        yield from (f"          {number}. {step}" for number, step in enumerate(broken.steps, 1))


def _record(proof: Proof) -> dict[str, object]:
    return {
        "policy": proof.policy,
        "digest": proof.digest,
        "proved": proof.holds,
        "backends": dict(proof.backends),
        "tags": [
            {
                "tag": statement.tag,
                "proved": statement.broken is None,
                "as_it_is": statement.places(),
                "with_pseudonyms": statement.places(pseudonyms=True),
                "answers_kept": statement.places(kept=True),
                "broken": _broken(statement.broken),
            }
            for statement in proof.statements
        ],
        "claims": [
            {"tag": claim.tag, "places": sorted(claim.places), "proved": broken is None, "broken": _broken(broken)}
            for claim, broken in proof.claims
        ],
        "bound": {
            "judgements": proof.bound.judgements,
            "decisions": proof.bound.decisions,
            "requests": proof.bound.runs,
            "covers": dict(proof.bound.covers),
        },
        "notes": list(proof.notes),
    }


def _broken(broken: Broken | None) -> dict[str, object] | None:
    return None if broken is None else {"promise": broken.promise, "steps": list(broken.steps)}
