"""`hybrid-llm policy`: check policy files, and show the ones that come with the library."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_json, describe, subcommands
from hybrid_llm.cli.assumed import add_backend, parse_backends
from hybrid_llm.cli.exits import Exit
from hybrid_llm.cli.explain import load_named_policy
from hybrid_llm.cli.output import note, print_json, printable, record
from hybrid_llm.router.errors import ConfigError, PolicyError
from hybrid_llm.router.types import Location

if TYPE_CHECKING:
    from hybrid_llm.policies import Policy

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands and their help."""
    describe(
        parser,
        "Check policy files, and show the policies that come with the library.",
        examples=["hybrid-llm policy check clinic.yaml", "hybrid-llm policy list", "hybrid-llm policy show balanced"],
        codes=(Exit.CONFIG,),
    )
    group = subcommands(parser, "action")
    _add_check(group.add_parser("check", help="check files; all errors at once", allow_abbrev=False))
    _add_show(group.add_parser("show", help="print a built-in policy", allow_abbrev=False))
    _add_list(group.add_parser("list", help="list the built-in policies", allow_abbrev=False))


def _add_check(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Check policy files. All errors of all files are told at once, each with line, column and a hint.",
        examples=[
            "hybrid-llm policy check clinic.yaml",
            "hybrid-llm policy check clinic.yaml --config hybrid.yaml",
            "hybrid-llm policy check policies/*.yaml --backend phone=edge --backend eu=cloud --json",
        ],
        codes=(Exit.CONFIG,),
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a policy file or the name of a built-in policy")
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--config", type=Path, metavar="FILE", help="take the backends from this hybrid.yaml")
    add_backend(places)
    add_json(parser)
    parser.set_defaults(act=_check)


def _add_show(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Print a built-in policy: a start for one of your own.",
        examples=["hybrid-llm policy show balanced > policy.yaml"],
        codes=(Exit.CONFIG,),
    )
    parser.add_argument("name", metavar="NAME")
    parser.set_defaults(act=_show)


def _add_list(parser: argparse.ArgumentParser) -> None:
    describe(parser, "List the built-in policies.", examples=["hybrid-llm policy list --json"], codes=())
    add_json(parser)
    parser.set_defaults(act=_list)


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    code: int = args.act(args)
    return code


def _check(args: argparse.Namespace) -> int:
    locations = _locations(args)
    results = [(name, _judge(name, locations)) for name in args.files]
    if args.json:
        print_json([_result_record(name, result) for name, result in results])
    else:
        for name, result in results:
            _print_result(name, result)
    return Exit.CONFIG if any(isinstance(result, ConfigError) for _, result in results) else Exit.OK


def _locations(args: argparse.Namespace) -> Mapping[str, Location]:
    if args.config is None:
        return parse_backends(args.backend)
    from hybrid_llm.router.config import load_config

    return load_config(args.config).locations


def _judge(name: str, locations: Mapping[str, Location]) -> Policy | ConfigError:
    try:
        return load_named_policy(name, locations)
    except ConfigError as error:
        return error


def _print_result(name: str, result: Policy | ConfigError) -> None:
    if isinstance(result, ConfigError):
        note(printable(str(result)))
    else:
        print(f"{name}: right. {_summary(result)}")


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
        return {"file": name, "right": False, "errors": [_error_record(error) for error in _errors(result)]}
    return {
        "file": name,
        "right": True,
        "errors": [],
        "name": result.name,
        "digest": result.digest,
        "rules": len(result.rules),
        "tags": {tag: {"allow": rule.allow, "detect": rule.detect} for tag, rule in result.tags.items()},
        "objectives": record(result.objectives),
    }


def _errors(error: ConfigError) -> tuple[ConfigError, ...]:
    return error.errors if isinstance(error, PolicyError) else (error,)


def _error_record(error: ConfigError) -> dict[str, object]:
    if not isinstance(error, PolicyError):
        return {"path": error.path, "message": str(error)}
    text = str(error).splitlines()[0].removeprefix(f"{error.path}:{error.line}:{error.column}: ")
    return {"path": error.path, "line": error.line, "column": error.column, "message": text, "hint": error.hint}


def _show(args: argparse.Namespace) -> int:
    from hybrid_llm.policies import builtin_policy

    builtin_policy(args.name)
    print((files("hybrid_llm.policies") / "builtin" / f"{args.name}.yaml").read_text("utf-8"), end="")
    return Exit.OK


def _list(args: argparse.Namespace) -> int:
    from hybrid_llm.policies import builtin_names

    if args.json:
        print_json(list(builtin_names()))
    else:
        print("\n".join(builtin_names()))
    return Exit.OK
