"""`hybrid-llm policy check`: every error of policy files at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_json, describe
from hybrid_llm.cli.policy.shared import add_places, detectors_of, load_named_policy, locations_of
from hybrid_llm.cli.terminal import Exit, note, print_json, printable, record
from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.request import Location

if TYPE_CHECKING:
    from hybrid_llm.policies import Policy, PolicyWarning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Check policy files. All errors and warnings of all files are told at once, each with line, column and a hint.",
        examples=[
            "hybrid-llm policy check clinic.yaml",
            "hybrid-llm policy check clinic.yaml --config hybrid.yaml --strict",
            "hybrid-llm policy check policies/*.yaml --backend phone=edge --backend eu=cloud --json",
        ],
        codes=(Exit.CONFIG,),
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a policy file or the name of a built-in policy")
    parser.add_argument("--strict", action="store_true", help="let warnings fail the check too")
    add_places(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Check, and tell."""
    locations = locations_of(args)
    detectors = detectors_of(args)
    results = [(name, _judge(name, locations, detectors)) for name in args.files]
    if args.json:
        print_json([_result_record(name, result) for name, result in results])
    else:
        for name, result in results:
            _print_result(name, result)
    return Exit.CONFIG if any(_fails(result, strict=args.strict) for _, result in results) else Exit.OK


def _fails(result: Policy | ConfigError, *, strict: bool) -> bool:
    return isinstance(result, ConfigError) or (strict and bool(result.warnings))


def _judge(name: str, locations: Mapping[str, Location], detectors: frozenset[str]) -> Policy | ConfigError:
    try:
        return load_named_policy(name, locations, detectors)
    except ConfigError as error:
        return error


def _print_result(name: str, result: Policy | ConfigError) -> None:
    if isinstance(result, ConfigError):
        note(printable(str(result)))
    else:
        print(f"{name}: right. {_summary(result)}")
        for warning in result.warnings:
            note(printable(str(warning)))


def _summary(policy: Policy) -> str:
    tags = ", ".join(f"{tag} ({' '.join(sorted(rule.allow)) or 'nowhere'})" for tag, rule in policy.tags.items())
    goals = ", ".join(f"{name} {value}" for name, value in record(policy.objectives).items() if value is not None)
    return (
        f"policy {policy.name} ({policy.digest})\n"
        f"  rules       {len(policy.rules)}\n"
        f"  tags        {tags or 'none'}\n"
        f"  objectives  {goals or 'none'}\n"
        f"  backends    {', '.join(f'{name} ({place})' for name, place in policy.backends.items())}"
    )


def _result_record(name: str, result: Policy | ConfigError) -> dict[str, object]:
    if isinstance(result, ConfigError):
        return {
            "file": name,
            "right": False,
            "errors": [_error_record(error) for error in _errors(result)],
            "warnings": [],
        }
    return {
        "file": name,
        "right": True,
        "errors": [],
        "warnings": [_warning_record(warning) for warning in result.warnings],
        "name": result.name,
        "digest": result.digest,
        "rules": len(result.rules),
        "tags": {tag: {"allow": rule.allow, "detect": rule.detect} for tag, rule in result.tags.items()},
        "objectives": record(result.objectives),
    }


def _warning_record(warning: PolicyWarning) -> dict[str, object]:
    found = record(warning)
    del found["text"]
    return found


def _errors(error: ConfigError) -> tuple[ConfigError, ...]:
    return error.errors if isinstance(error, PolicyError) else (error,)


def _error_record(error: ConfigError) -> dict[str, object]:
    if not isinstance(error, PolicyError):
        return {"path": error.path, "message": str(error)}
    text = str(error).splitlines()[0].removeprefix(f"{error.path}:{error.line}:{error.column}: ")
    return {"path": error.path, "line": error.line, "column": error.column, "message": text, "hint": error.hint}
