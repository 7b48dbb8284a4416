"""`hybrid-llm policy explain`: what one policy does with one request; `hybrid-llm explain` with the policy in front."""

from __future__ import annotations

import argparse

from hybrid_llm.cli import explain
from hybrid_llm.cli.arguments import describe
from hybrid_llm.cli.exits import Exit

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Tell what a policy does with a prompt, and why: order, exclusions, and what each rule saw. Nothing is sent.\n"
        "Signals are the live ones of this device, but for those that --signal gives.",
        examples=[
            "hybrid-llm policy explain clinic.yaml 'Patient 4711 has a fever.' --privacy phi",
            "hybrid-llm policy explain balanced Hello --signal device.battery=0.1 --signal device.charging=false",
            "hybrid-llm policy explain fleet.yaml Hello --backend phone=edge --backend eu=cloud --json",
        ],
        codes=(Exit.CONFIG, Exit.INTERRUPTED),
    )
    parser.add_argument("policy", metavar="POLICY", help="a policy file or the name of a built-in policy")
    explain.add_situation(parser)


def run(args: argparse.Namespace) -> int:
    """Decide, and tell."""
    return explain.run(args)
