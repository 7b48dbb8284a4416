"""`hybrid-llm policy list`: the policies that come with the library."""

from __future__ import annotations

import argparse

from hybrid_llm.cli.arguments import add_json, describe
from hybrid_llm.cli.exits import Exit
from hybrid_llm.cli.output import print_json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(parser, "List the built-in policies.", examples=["hybrid-llm policy list --json"], codes=())
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """List them."""
    from hybrid_llm.policies import builtin_names

    if args.json:
        print_json(list(builtin_names()))
    else:
        print("\n".join(builtin_names()))
    return Exit.OK
