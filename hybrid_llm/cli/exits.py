"""The exit codes of `hybrid-llm`, and the one table from the library's errors to them. It prints nothing."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from hybrid_llm.router.errors import BackendError, ConfigError, InvalidRequest, RoutingError, SecurityError

__all__ = ["MEANING", "Exit", "exit_for"]


class Exit(IntEnum):
    """How a command ended, as a shell or a script sees it."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIG = 3
    ROUTING = 4
    BACKEND = 5
    SECURITY = 6
    UNPROVED = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANING: Final = {
    Exit.OK: "done",
    Exit.FAILURE: "another failure: a test or check that fails, a disk that is full",
    Exit.USAGE: "the command line or the request is wrong",
    Exit.CONFIG: "a configuration, policy, model folder or certificate is wrong",
    Exit.ROUTING: "no backend may or could answer",
    Exit.BACKEND: "the backend failed, or the deadline is over",
    Exit.SECURITY: "trust is broken: a wrong peer, changed bytes, or text that may not leave",
    Exit.UNPROVED: "a promise of a policy is broken, as `policy prove` found",
    Exit.INTERRUPTED: "stopped with Ctrl-C",
    Exit.BROKEN_PIPE: "the reader of the output went away",
}
"""What each code means, for `--help` and the documentation."""

_FAMILIES: Final[tuple[tuple[type[Exception], Exit], ...]] = (
    (InvalidRequest, Exit.USAGE),
    (ConfigError, Exit.CONFIG),
    (RoutingError, Exit.ROUTING),
    (BackendError, Exit.BACKEND),
    (SecurityError, Exit.SECURITY),
)


def exit_for(error: Exception) -> Exit:
    """The code of *error*'s family; `Exit.FAILURE` where it has none of its own."""
    return next((code for family, code in _FAMILIES if isinstance(error, family)), Exit.FAILURE)
