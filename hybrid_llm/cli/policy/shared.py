"""What the policy commands share: the options that name the backends, and how a policy is found. No command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.cli.assumed import add_backend, parse_backends
from hybrid_llm.router.types import Location

if TYPE_CHECKING:
    from hybrid_llm.policies import Policy

__all__ = ["add_places", "detectors_of", "load_named_policy", "locations_of"]


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--backend`: against which backends a policy is read."""
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--config", type=Path, metavar="FILE", help="take the backends from this hybrid.yaml")
    add_backend(places)


def locations_of(args: argparse.Namespace) -> Mapping[str, Location]:
    """The backends that the options of `add_places` name; `edge` and `cloud` where they name none."""
    if args.config is None:
        return parse_backends(args.backend)
    from hybrid_llm.router.config import load_config

    return load_config(args.config).locations


def detectors_of(args: argparse.Namespace) -> frozenset[str]:
    """The detectors that the configuration of `add_places` names beside the library's own."""
    if args.config is None:
        return frozenset()
    from hybrid_llm.router.config import load_config

    return load_config(args.config).detector_names


def load_named_policy(name: str, locations: Mapping[str, Location], detectors: frozenset[str] = frozenset()) -> Policy:
    """A policy by the name of a built-in one, else by its file; raises `PolicyError` with every fault.

    *detectors* are those that it may name beside the library's own.
    """
    from hybrid_llm.policies import KNOWN_DETECTORS, builtin_names, builtin_policy
    from hybrid_llm.policies.load import read_policy

    if name in builtin_names():
        return builtin_policy(name, backends=locations)
    return read_policy(Path(name), locations, detectors=KNOWN_DETECTORS | detectors)
