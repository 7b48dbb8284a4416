"""`hybrid-llm explain`: who would answer a prompt, and why. Nothing is sent, and no model runs."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import (
    add_config,
    add_json,
    add_prompt,
    add_request_options,
    describe,
    read_prompt,
    request_options,
)
from hybrid_llm.cli.assumed import AssumedBackend, add_backend, parse_backends
from hybrid_llm.cli.exits import Exit
from hybrid_llm.cli.output import decision_record, note, print_json, printable
from hybrid_llm.cli.policy.shared import load_named_policy
from hybrid_llm.cli.what_if import WhatIf, parse_overrides
from hybrid_llm.router.request import Defaults
from hybrid_llm.router.sensors import SystemSensors
from hybrid_llm.router.types import Decision, Location

if TYPE_CHECKING:
    from hybrid_llm.backends.base import Backend
    from hybrid_llm.policies import PolicySource
    from hybrid_llm.router.config import Config

__all__ = ["add_arguments", "add_situation", "run", "show"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Tell who would answer a prompt, and why: order, exclusions, and what each rule saw. Nothing is sent.\n"
        "It explains with exit code 0 also when nobody would be eligible.",
        examples=[
            "hybrid-llm explain 'Patient 4711 has a fever.' --config hybrid.yaml --privacy phi",
            "hybrid-llm explain Hello --policy clinic.yaml --signal device.battery=0.1 --signal device.charging=false",
            "hybrid-llm explain Hello --policy fleet.yaml --backend phone=edge --backend eu=cloud --json",
        ],
        codes=(Exit.CONFIG, Exit.INTERRUPTED),
    )
    parser.add_argument(
        "--policy", metavar="FILE", help="a policy file or the name of a built-in one; see `policy list`"
    )
    add_situation(parser)


def add_situation(parser: argparse.ArgumentParser, *, prompt: bool = True) -> None:
    """Add what is explained: the prompt, if *prompt* says that it is needed, its options, backends and signals."""
    add_prompt(parser, needed=prompt)
    places = parser.add_mutually_exclusive_group()
    add_config(places)
    add_backend(places)
    parser.add_argument(
        "--signal",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="take this value instead of the live one, such as device.battery=0.1, cloud.ready=false, edge.queue=3",
    )
    add_request_options(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Decide, and tell."""
    prompt, options = read_prompt(args.prompt), request_options(args)
    with _pipeline(args) as pipeline:
        locations = {name: backend.location for name, backend in pipeline.backends.items()}
        pipeline.overrides = parse_overrides(args.signal, locations)
        decision = pipeline.route(prompt, options).decision
    return show(decision, as_json=args.json)


def show(decision: Decision, *, as_json: bool) -> int:
    """Print a decision with its trace."""
    if as_json:
        print_json(decision_record(decision))
    else:
        print(printable(decision.explain()))
    return Exit.OK


@contextlib.contextmanager
def _pipeline(args: argparse.Namespace) -> Iterator[WhatIf]:
    """The way up to a decision; everything that it opened is closed again."""
    config = _config(args)
    backends, policies = _parts(args, config)
    defaults = config.defaults if config is not None else Defaults()
    prices = config.prices if config is not None else {}
    ledger = config.open_ledger() if config is not None else None
    pipeline = WhatIf(
        backends,
        policies,
        sensors=SystemSensors(),
        detectors=config.open_detectors() if config is not None else (),
        hooks=(),
        defaults=defaults,
        prices=prices,
        ledger=ledger,
        predictions=config.open_predictions() if config is not None else None,
    )
    try:
        yield pipeline
    finally:
        pipeline.close()
        for backend in backends:
            backend.close()


def _config(args: argparse.Namespace) -> Config | None:
    from hybrid_llm.router.config import load_config
    from hybrid_llm.router.default import CONFIG_VARIABLE

    path = args.config or (None if args.policy or args.backend else os.environ.get(CONFIG_VARIABLE))
    return load_config(Path(path)) if path else None


def _parts(args: argparse.Namespace, config: Config | None) -> tuple[list[Backend], PolicySource]:
    from hybrid_llm.router.client import FixedPolicy

    if config is not None and args.policy is None:
        policies = config.open_policy()
        return config.open_backends(), policies
    locations = config.locations if config is not None else _assumed(args)
    policy = load_named_policy(args.policy or "balanced", locations, config.detector_names if config else frozenset())
    if config is not None:
        return config.open_backends(), FixedPolicy(policy)
    return [_backend(args, name, place) for name, place in locations.items()], FixedPolicy(policy)


def _assumed(args: argparse.Namespace) -> Mapping[str, Location]:
    """Without a configuration and a policy, what `generate` uses: the embedded model alone."""
    if args.policy is None and not args.backend:
        return {"edge": Location.EDGE}
    locations = parse_backends(args.backend)
    note(f"assumed backends: {', '.join(locations)}; change them with --backend and --signal, or give --config")
    return locations


def _backend(args: argparse.Namespace, name: str, place: Location) -> Backend:
    if args.policy is not None or args.backend:
        return AssumedBackend(name, place)
    from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig

    return EdgeBackend(EdgeConfig(name=name))
