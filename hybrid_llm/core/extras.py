"""What an optional part needs, and the command that installs it, where hybrid-llm was installed by pip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from typing import Final

_EXTRA: Final = re.compile(r"extra\s*==\s*['\"](?P<name>[a-z0-9_-]+)['\"]")
_LISTED: Final = 3
"""Packages that a line has room for."""


def install_hint(extra: str) -> str:
    """The `pip install` line for *extra*. pip reads its packages from the installation: no index has to have ours."""
    known = bool(requirements(extra))
    return f'pip install "hybrid-llm[{extra}]"' if known else f"install hybrid-llm with the extra `{extra}`"


def listed(packages: Sequence[str]) -> str:
    """The names of *packages* for a line of text: the first ones, and how many more."""
    more = len(packages) - _LISTED
    return f"{', '.join(packages[:_LISTED])} and {more} more" if more > 1 else ", ".join(packages)


def requirements(extra: str = "") -> list[str]:
    """The packages of *extra*, by default of the base, with their versions, such as `matplotlib>=3.9`.

    It is empty where no metadata is installed.
    """
    try:
        lines = metadata.requires("hybrid-llm") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        what, _, marker = line.partition(";")
        match = _EXTRA.search(marker)
        if (match["name"] if match else "") == extra:
            found.append(what.replace(" ", ""))
    return found
