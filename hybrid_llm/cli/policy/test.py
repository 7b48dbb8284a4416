"""`hybrid-llm policy test`: run the test cases of a policy, and report failures and rules that no case covers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from hybrid_llm.cli import arguments
from hybrid_llm.cli.terminal import Exit, output
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.lab.casefile import Case, parse_cases
from hybrid_llm.lab.cases import Outcome, Report, run_suite
from hybrid_llm.policies import Policy, builtin_names

_SUFFIX: Final = ".test.yaml"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", metavar="POLICY", help=arguments.POLICY_HELP)
    parser.add_argument("cases", nargs="*", type=Path, metavar="CASES", help="files of test cases")
    parser.add_argument("--strict", action="store_true", help="fail if no case covers a rule or a tag")
    arguments.add_backends(parser)
    arguments.add_json(parser)


def _run(args: argparse.Namespace) -> int:
    policy, cases = _suite(args)
    report = run_suite(policy, cases, arguments.open_detectors(args))
    output(report.to_dict(), _lines(args.policy, report), as_json=args.json)
    return Exit.OK if report.passed and (report.covered or not args.strict) else Exit.FAILURE


def _suite(args: argparse.Namespace) -> tuple[Policy, list[Case]]:
    """All cases of all files. They share one policy, so that coverage is counted over all of them."""

    def policy_for(named: Mapping[str, Location] | None) -> Policy:
        return arguments.policy_loader(args, named)(args.policy)

    suites = [parse_cases(text, path, policy_for) for text, path in _texts(args.policy, args.cases)]
    if any(suite.policy.backends != suites[0].policy.backends for suite in suites):
        raise ConfigError("the files of test cases declare different `backends`: run them one by one")
    return suites[0].policy, [case for suite in suites for case in suite.cases]


def _texts(policy: str, cases: Iterable[Path]) -> list[tuple[str, str]]:
    """The text and the name of each file of test cases."""
    given = list(cases)
    if given:
        return [(arguments.read_text(path), str(path)) for path in given]
    if policy in builtin_names():
        return [(arguments.policy_text(policy, _SUFFIX), f"builtin/{policy}{_SUFFIX}")]
    default = Path(policy).with_suffix("").with_suffix(_SUFFIX)
    if not default.exists():
        raise ConfigError(f"no test cases: {default} does not exist; see `policy test --help`")
    return [(arguments.read_text(default), str(default))]


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
        yield f"not covered: {rule.label} {rule.kind} at {rule.place}: {rule.because}"
    if report.untried:
        yield f"tags without a case: {', '.join(report.untried)}"
    if report.covered:
        yield "every rule and every tag is covered"


def _failure(outcome: Outcome) -> Iterator[str]:
    yield f"        at {outcome.case.position}"
    for mismatch in outcome.mismatches:
        yield f"        {mismatch.what + ':':<10} expected {mismatch.expected}"
        yield f"        {'':<10} but was  {mismatch.actual}"
    yield from (f"        | {line}" for line in outcome.decision.explain().splitlines())


TEST: Final = arguments.Command(
    about="Run the test cases of a policy: those in CASES, else those next to it, clinic.test.yaml for clinic.yaml.\n"
    "Each failure shows the expected and the actual decision, with every rule. Rules and tags that no case covers are\n"
    "listed.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm policy test clinic.yaml",
        "hybrid-llm policy test clinic.yaml cases/nights.yaml cases/days.yaml --strict",
        "hybrid-llm policy test balanced --strict --json",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG),
    meanings={Exit.FAILURE: "a case failed; with --strict also: no case covers a rule or a tag"},
)
