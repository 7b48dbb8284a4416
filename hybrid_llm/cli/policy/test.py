"""`hybrid-llm policy test`: the cases beside a policy: what was expected, what came, which rules were never tried."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_json, describe, read_text
from hybrid_llm.cli.policy.shared import add_places, detectors_of, load_named_policy, locations_of
from hybrid_llm.cli.terminal import Exit, decision_record, print_json, printable, record
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location, Request
from hybrid_llm.core.signals import Signals

if TYPE_CHECKING:
    from hybrid_llm.lab.cases import Case, Judge, Outcome, Report
    from hybrid_llm.policies import Policy


SUFFIX = ".test.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Run the cases of a policy: those in CASES, else those beside it, clinic.test.yaml beside clinic.yaml.\n"
        "Each failure shows what was expected, what came, and the decision rule by rule. Rules and tags that no case\n"
        "ever tried are listed.",
        examples=[
            "hybrid-llm policy test clinic.yaml",
            "hybrid-llm policy test clinic.yaml cases/nights.yaml cases/days.yaml --strict",
            "hybrid-llm policy test balanced --strict --json",
        ],
        codes=(Exit.FAILURE, Exit.CONFIG),
        meanings={Exit.FAILURE: "a case failed; with --strict also: a rule or a tag was never tried"},
    )
    parser.add_argument("policy", metavar="POLICY", help="a policy file or the name of a built-in policy")
    parser.add_argument("cases", nargs="*", type=Path, metavar="CASES", help="files of cases")
    parser.add_argument("--strict", action="store_true", help="fail when a rule or a tag was never tried")
    add_places(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the cases, and tell."""
    from hybrid_llm.lab.cases import run_suite

    policy, cases = _suite(args)
    report = run_suite(policy, cases, _judge(policy))
    if args.json:
        print_json(_report_record(report))
    else:
        print(printable("\n".join(_lines(args.policy, report))))
    return Exit.OK if report.passed and (report.covered or not args.strict) else Exit.FAILURE


def _suite(args: argparse.Namespace) -> tuple[Policy, list[Case]]:
    """All cases of all files. They share one policy: rules are counted over all of them."""
    from hybrid_llm.lab.casefile import parse_cases

    given = locations_of(args) if args.config or args.backend else None

    def policy_for(named: Mapping[str, Location] | None) -> Policy:
        return load_named_policy(args.policy, given or named or locations_of(args), detectors_of(args))

    suites = [parse_cases(text, path, policy_for) for text, path in _texts(args.policy, args.cases)]
    if any(suite.policy.backends != suites[0].policy.backends for suite in suites):
        raise ConfigError("the files of cases name different `backends`: test them one by one")
    return suites[0].policy, [case for suite in suites for case in suite.cases]


def _texts(policy: str, cases: Iterable[Path]) -> list[tuple[str, str]]:
    """The text and the name of each file of cases."""
    from hybrid_llm.policies import builtin_names

    given = list(cases)
    if given:
        return [(read_text(path), str(path)) for path in given]
    if policy in builtin_names():
        shipped = files("hybrid_llm.policies") / "builtin" / f"{policy}{SUFFIX}"
        return [(shipped.read_text("utf-8"), f"builtin/{policy}{SUFFIX}")]
    beside = Path(policy).with_suffix("").with_suffix(SUFFIX)
    if not beside.exists():
        raise ConfigError(f"there are no cases: {beside} does not exist; `policy test --help` tells more")
    return [(read_text(beside), str(beside))]


def _judge(policy: Policy) -> Judge:
    """What the guard finds in the text of a case, and how long the text is."""
    from hybrid_llm.core.protocols import estimate_tokens
    from hybrid_llm.router.pipeline import without
    from hybrid_llm.router.privacy import PrivacyGuard

    guard = PrivacyGuard()

    def judge(request: Request, signals: Signals) -> tuple[Request, Signals]:
        counted = replace(request, prompt_tokens=request.prompt_tokens or estimate_tokens(request))
        assessment = guard.assess(counted, policy)
        guard.release(assessment)
        return assessment.request, without(assessment.blocked, signals)

    return judge


def _lines(name: str, report: Report) -> Iterator[str]:
    policy = report.policy
    yield f"{name}: policy {policy.name} ({policy.digest})"
    for outcome in report.outcomes:
        yield f"  {'pass' if outcome.passed else 'FAIL'}  {outcome.case.name}"
        if not outcome.passed:
            yield from _failure(outcome)
    failed = sum(not outcome.passed for outcome in report.outcomes)
    yield f"{len(report.outcomes) - failed} passed, {failed} failed"
    for rule in report.unmatched:
        yield f"never matched: {rule.label} {rule.kind} at {rule.place}: {rule.because}"
    if report.untried:
        yield f"tags that no case has: {', '.join(report.untried)}"
    if report.covered:
        yield "every rule was matched and every tag was tried"


def _failure(outcome: Outcome) -> Iterator[str]:
    yield f"        at {outcome.case.place}"
    for mismatch in outcome.mismatches:
        yield f"        {mismatch.what + ':':<10} expected {mismatch.expected}"
        yield f"        {'':<10} but came {mismatch.came}"
    yield from (f"        | {line}" for line in outcome.decision.explain().splitlines())


def _report_record(report: Report) -> dict[str, object]:
    return {
        "policy": report.policy.name,
        "digest": report.policy.digest,
        "passed": report.passed,
        "cases": [
            {
                "name": outcome.case.name,
                "place": outcome.case.place,
                "passed": outcome.passed,
                "mismatches": [record(mismatch) for mismatch in outcome.mismatches],
                "decision": decision_record(outcome.decision),
            }
            for outcome in report.outcomes
        ],
        "never_matched": [rule.label for rule in report.unmatched],
        "tags_never_tried": list(report.untried),
    }
