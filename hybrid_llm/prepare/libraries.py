"""Libraries of an extra that may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import libraries of *extra* in this block.

    Raises:
        ConfigError: one is missing; the message has the line that installs them.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: {install_hint(extra)}") from error
