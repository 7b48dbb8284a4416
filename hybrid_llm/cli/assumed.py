"""A backend that only has a name and a place: what a policy is tried against before there is anything to call."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Final

from hybrid_llm.backends.base import Capabilities, estimate_tokens
from hybrid_llm.router.clearance import Cleared, require_clearance
from hybrid_llm.router.errors import BackendUnavailable, InvalidRequest
from hybrid_llm.router.signals import BackendState
from hybrid_llm.router.types import Chunk, Location, Request

__all__ = ["DEFAULT_BACKENDS", "AssumedBackend", "add_backend", "parse_backends"]

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
