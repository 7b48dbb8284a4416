"""`hybrid-llm demo`: play the scenes, check every expectation, and show the table."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Final

from hybrid_llm.cli.exits import Exit
from hybrid_llm.router.errors import ConfigError

__all__ = ["add_arguments", "run"]

_NODE_MODEL: Final = Path("examples/models/hybrid-demo-node")
_FAILED: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    from hybrid_llm.cli.arguments import describe

    describe(
        parser,
        "Make certificates, start two nodes, load the edge model, and send requests that each take another way.",
        examples=["hybrid-llm demo", "hybrid-llm demo --node-model examples/models/hybrid-demo-node"],
        codes=[Exit.CONFIG],
    )
    parser.add_argument("--node-model", type=Path, metavar="DIR", help=f"the node's model (default: {_NODE_MODEL})")


def run(args: argparse.Namespace) -> int:
    """Play; returns 0 if every expectation came true, 1 if not. ConfigError if a part is missing."""
    from hybrid_llm.cli.demo.report import Report
    from hybrid_llm.cli.demo.scenes import SCENES
    from hybrid_llm.cli.demo.world import World

    logging.getLogger("hybrid_llm").addHandler(logging.NullHandler())  # the scenes tell what matters themselves
    model = _node_model(args.node_model)
    began = time.monotonic()
    report = Report()
    report.say(f"making a private CA, starting two nodes over {model.name}, loading the edge model")
    with World(model) as world:
        report.say(f"ready after {time.monotonic() - began:.1f} s; the policy:\n\n{world.policy_text()}")
        report.play(world, SCENES)
    report.table()
    report.say(f"{report.total} requests, {time.monotonic() - began:.1f} s in all")
    if report.wrong:
        print(f"{report.wrong} expectations did not come true", file=sys.stderr)
        return _FAILED
    report.say("every expectation came true")
    return Exit.OK


def _node_model(given: Path | None) -> Path:
    """The folder of the node's model: the given one, that of the working folder, or that of the checkout."""
    checkout = Path(__file__).resolve().parents[3]
    places = [given] if given is not None else [_NODE_MODEL, checkout / _NODE_MODEL]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise ConfigError(
        f"no model for the node in {places[0]}; run this in a checkout, or name a folder with --node-model",
        path=str(places[0]),
    )
