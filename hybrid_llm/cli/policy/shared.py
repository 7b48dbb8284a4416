"""A backend that only has a name and a place: what a policy is tried against before there is anything to call.

What the policy commands share: the options that name the backends, and how a policy is found. No command.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import BackendUnavailable, InvalidRequest
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.protocols import Capabilities, estimate_tokens
from hybrid_llm.core.request import Location, Request
from hybrid_llm.core.signals import BackendState

if TYPE_CHECKING:
    from hybrid_llm.policies import Policy


DEFAULT_BACKENDS: Final[Mapping[str, Location]] = {"edge": Location.EDGE, "cloud": Location.CLOUD}
_CONTEXT: Final = {Location.EDGE: 2048, Location.CLOUD: 32768}


class AssumedBackend:
    """Ready, idle, and never to be called: `explain` asks for its state alone."""

    def __init__(self, name: str, location: Location) -> None:
        self.name = name
        self.location = location
        self.capabilities = Capabilities(model="assumed", context_window=_CONTEXT[location])

    def state(self) -> BackendState:
        """Ready and idle."""
        return BackendState(name=self.name, location=self.location, context_window=self.capabilities.context_window)

    def count_tokens(self, request: Request) -> int:
        """Estimate: there is no tokenizer."""
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Refuse, always: there is nothing behind the name.

        Raises:
            BackendUnavailable: always.
        """
        raise self._nothing(cleared)

    def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Refuse as `stream` does."""
        raise self._nothing(cleared)

    def _nothing(self, cleared: Cleared) -> BackendUnavailable:
        require_clearance(cleared, self.location)
        return BackendUnavailable(f"{self.name} is assumed, not configured: give --config", backend=self.name)

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""


def add_backend(parser: argparse._ActionsContainer) -> None:
    """Add `--backend`."""
    parser.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="NAME=PLACE",
        help="assume this backend (PLACE is edge or cloud); repeat it; default: edge and cloud",
    )


def parse_backends(texts: list[str]) -> Mapping[str, Location]:
    """Read `NAME=edge` or `NAME=cloud`; `edge` and `cloud` where nothing is given.

    Raises:
        InvalidRequest: another form, or another place.
    """
    found = dict(_parse(text) for text in texts)
    return found or DEFAULT_BACKENDS


def _parse(text: str) -> tuple[str, Location]:
    name, _, place = text.partition("=")
    try:
        return name, Location(place or name)
    except ValueError:
        raise InvalidRequest(f"--backend: {text!r} is not NAME=edge or NAME=cloud", field="backend") from None


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
