"""`hybrid-llm policy list`: the policies that come with the library.

`hybrid-llm policy show`: print a policy that comes with the library.

`hybrid-llm policy schema`: the JSON Schema of policies or of their cases, for editors.
"""

from __future__ import annotations

import argparse
from importlib.resources import files

from hybrid_llm.cli.arguments import Subcommand, add_json, describe
from hybrid_llm.cli.policy.shared import add_places, locations_of
from hybrid_llm.cli.terminal import Exit, print_json


def list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(parser, "List the built-in policies.", examples=["hybrid-llm policy list --json"], codes=())
    add_json(parser)


def run_list(args: argparse.Namespace) -> int:
    """List them."""
    from hybrid_llm.policies import builtin_names

    if args.json:
        print_json(list(builtin_names()))
    else:
        print("\n".join(builtin_names()))
    return Exit.OK


def show_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Print a built-in policy: a start for one of your own.",
        examples=["hybrid-llm policy show balanced > policy.yaml"],
        codes=(Exit.CONFIG,),
    )
    parser.add_argument("name", metavar="NAME")


def run_show(args: argparse.Namespace) -> int:
    """Print it."""
    from hybrid_llm.policies import builtin_policy

    builtin_policy(args.name)
    print((files("hybrid_llm.policies") / "builtin" / f"{args.name}.yaml").read_text("utf-8"), end="")
    return Exit.OK


def schema_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Print the JSON Schema (draft 2020-12) of policy files, or with --cases of the files of cases beside them.\n"
        "Editors with a YAML language server complete, explain and check with it; name it in the first line:\n"
        "  # yaml-language-server: $schema=policy.schema.json",
        examples=[
            "hybrid-llm policy schema > policy.schema.json",
            "hybrid-llm policy schema --cases > policy.cases.schema.json",
            "hybrid-llm policy schema --config hybrid.yaml --detector names > policy.schema.json",
        ],
        codes=(Exit.CONFIG,),
    )
    parser.add_argument("--cases", action="store_true", help="the schema of files of cases")
    parser.add_argument(
        "--detector", action="append", default=[], metavar="NAME", help="a detector of your own; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="as without: a schema is always JSON")
    add_places(parser)


def run_schema(args: argparse.Namespace) -> int:
    """Print it."""
    from hybrid_llm.policies import KNOWN_DETECTORS
    from hybrid_llm.policies.jsonschema import cases_schema, policy_schema

    backends = locations_of(args) if args.config or args.backend else None
    print_json(cases_schema(backends) if args.cases else policy_schema(backends, KNOWN_DETECTORS | {*args.detector}))
    return Exit.OK


listing = Subcommand(list_arguments, run_list)
show = Subcommand(show_arguments, run_show)
schema = Subcommand(schema_arguments, run_schema)
