"""`hybrid-llm policy explain`: what one policy does with a prompt, or with a request that was recorded, and why."""

from __future__ import annotations

import argparse
from pathlib import Path

from hybrid_llm.cli import explain
from hybrid_llm.cli.arguments import describe
from hybrid_llm.cli.explain import amend, parse_overrides
from hybrid_llm.cli.policy.shared import load_named_policy
from hybrid_llm.cli.terminal import Exit
from hybrid_llm.core.errors import InvalidRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Tell what a policy does with a prompt, and why: order, exclusions, and what each rule saw. Nothing is sent.\n"
        "Signals are the live ones of this device, but for those that --signal gives. With --trace a recorded request\n"
        "is explained, under the signals that were there.",
        examples=[
            "hybrid-llm policy explain clinic.yaml 'Patient 4711 has a fever.' --privacy phi",
            "hybrid-llm policy explain balanced Hello --signal device.battery=0.1 --signal device.charging=false",
            "hybrid-llm policy explain clinic.yaml --trace decisions.jsonl --request 3f9a --json",
        ],
        codes=(Exit.CONFIG, Exit.INTERRUPTED),
    )
    parser.add_argument("policy", metavar="POLICY", help="a policy file or the name of a built-in policy")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="recorded decisions; see `policy diff --help`")
    parser.add_argument("--request", default="", metavar="ID", help="the id, or its beginning; without it the last one")
    explain.add_situation(parser, prompt=False)


def run(args: argparse.Namespace) -> int:
    """Decide, and tell."""
    if (args.prompt is None) is (args.trace is None):
        raise InvalidRequest("give either a PROMPT or --trace FILE", field="prompt")
    return explain.run(args) if args.trace is None else _recorded(args)


def _recorded(args: argparse.Namespace) -> int:
    from hybrid_llm.router.observability.records import read_recordings

    fitting = [one for one in read_recordings(args.trace) if one.metadata.request_id.startswith(args.request)]
    if not fitting:
        raise InvalidRequest(f"--request: {args.trace} holds no request {args.request!r}", field="request")
    metadata, signals = fitting[-1].metadata, fitting[-1].signals
    places = {name: state.location for name, state in signals.backends.items()}
    signals = amend(signals, parse_overrides(args.signal, places))
    return explain.show(load_named_policy(args.policy, places).decide(metadata, signals), as_json=args.json)
