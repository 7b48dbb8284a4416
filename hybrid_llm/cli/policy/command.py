"""`hybrid-llm policy`: the table of its sub-commands; each is a module that imports what it needs when it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import describe, subcommands
from hybrid_llm.cli.terminal import Exit

if TYPE_CHECKING:
    from hybrid_llm.cli.main import Command


ACTIONS: Final = {
    "check": ("hybrid_llm.cli.policy.check", "check files; all errors at once"),
    "explain": ("hybrid_llm.cli.policy.explain", "tell what a policy does with one prompt, and why"),
    "test": ("hybrid_llm.cli.policy.test", "run the cases that stand beside a policy"),
    "prove": ("hybrid_llm.cli.policy.verify", "prove for each tag where its requests can go"),
    "diff": ("hybrid_llm.cli.policy.diff", "tell which recorded requests would go elsewhere"),
    "schema": ("hybrid_llm.cli.policy.builtin:schema", "print a JSON Schema, for editors"),
    "show": ("hybrid_llm.cli.policy.builtin:show", "print a built-in policy"),
    "simulate": ("hybrid_llm.cli.policy.simulate", "play a trace through a policy and its rivals"),
    "list": ("hybrid_llm.cli.policy.builtin:listing", "list the built-in policies"),
}
"""Name -> module and one line for the overview."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands and their options."""
    describe(
        parser,
        "The integrator's tools: check policies, try them, and see what they would do.",
        examples=["hybrid-llm policy check clinic.yaml", "hybrid-llm policy list", "hybrid-llm policy show balanced"],
        codes=(Exit.CONFIG,),
    )
    group = subcommands(parser, "action")
    for name, (_, about) in ACTIONS.items():
        _load(name).add_arguments(group.add_parser(name, help=about, allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    return _load(args.action).run(args)


def _load(name: str) -> Command:
    from hybrid_llm.cli.main import load_command

    return load_command(ACTIONS[name][0])
