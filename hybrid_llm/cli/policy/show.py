"""`hybrid-llm policy show`: print a policy that comes with the library."""

from __future__ import annotations

import argparse
from importlib.resources import files

from hybrid_llm.cli.arguments import describe
from hybrid_llm.cli.exits import Exit

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Print a built-in policy: a start for one of your own.",
        examples=["hybrid-llm policy show balanced > policy.yaml"],
        codes=(Exit.CONFIG,),
    )
    parser.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from hybrid_llm.policies import builtin_policy

    builtin_policy(args.name)
    print((files("hybrid_llm.policies") / "builtin" / f"{args.name}.yaml").read_text("utf-8"), end="")
    return Exit.OK
