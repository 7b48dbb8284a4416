"""`hybrid-llm generate`: one prompt, one answer, shown as it comes."""

from __future__ import annotations

import argparse

from hybrid_llm.cli.arguments import (
    add_config,
    add_json,
    add_prompt,
    add_request_options,
    add_sampling_options,
    describe,
    read_prompt,
    request_options,
)
from hybrid_llm.cli.exits import Exit
from hybrid_llm.cli.output import generation_record, note, print_json, write
from hybrid_llm.cli.session import Session
from hybrid_llm.router.types import Decision, Generation

__all__ = ["add_arguments", "run", "timings_line"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Answer a prompt. The answer streams to standard output; everything else goes to standard error.",
        examples=[
            "hybrid-llm generate \"Is this review positive? 'A warm, funny film.'\"",
            "hybrid-llm generate - --privacy phi --max-tokens 64 < note.txt",
            "hybrid-llm generate 'What is 17 + 25?' --config hybrid.yaml --deadline 2 --json",
        ],
        codes=Exit,
    )
    add_prompt(parser)
    add_config(parser)
    add_request_options(parser)
    add_sampling_options(parser)
    add_json(parser)
    parser.add_argument("--verbose", "-v", action="store_true", help="decision and timings on standard error")


def run(args: argparse.Namespace) -> int:
    """Answer, and show the answer."""
    prompt, options = read_prompt(args.prompt), request_options(args)
    with Session(args.config) as session:
        if args.json:
            print_json(generation_record(session.ask(prompt, options, on_text=_drop)))
            return Exit.OK
        told = _tell if args.verbose else _drop
        generation = session.ask(prompt, options, on_text=write, on_decision=told)
        write("\n")
        if args.verbose:
            note(timings_line(generation))
    return Exit.OK


def _drop(_: object) -> None:
    """Show nothing."""


def _tell(decision: Decision) -> None:
    note(decision.explain())


def timings_line(generation: Generation) -> str:
    """Who answered, how fast and how much, in one line."""
    usage, timings = generation.usage, generation.timings
    speed = f", {1000 / timings.tpot_ms:.0f} tokens/s" if timings.tpot_ms > 0 else ""
    return (
        f"{generation.backend}: {usage.prompt_tokens} + {usage.completion_tokens} tokens, "
        f"first after {timings.ttft_ms:.0f} ms{speed}, {timings.total_ms:.0f} ms in all, {generation.finish_reason}"
    )
