"""`hybrid-llm policy schema`: the JSON Schema of policies or of their cases, for editors."""

from __future__ import annotations

import argparse

from hybrid_llm.cli.arguments import describe
from hybrid_llm.cli.exits import Exit
from hybrid_llm.cli.output import print_json
from hybrid_llm.cli.policy.shared import add_places, locations_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from hybrid_llm.policies import KNOWN_DETECTORS
    from hybrid_llm.policies.jsonschema import cases_schema, policy_schema

    backends = locations_of(args) if args.config or args.backend else None
    print_json(cases_schema(backends) if args.cases else policy_schema(backends, KNOWN_DETECTORS | {*args.detector}))
    return Exit.OK
