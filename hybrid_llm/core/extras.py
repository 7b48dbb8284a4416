"""What an optional part needs, and the command that installs it, in every installation: wheel, checkout or copy."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

_EXTRA: Final = re.compile(r"extra\s*==\s*['\"](?P<name>[a-z0-9_-]+)['\"]")


def install_hint(extra: str) -> str:
    """The `pip install` line for *extra*: it names the packages themselves, so that no index has to have ours."""
    packages = " ".join(f"'{each}'" for each in requirements(extra))
    return f"pip install {packages}" if packages else f"install hybrid-llm with the extra `{extra}`"


def requirements(extra: str = "") -> list[str]:
    """The packages of *extra*, by default of the base, with their versions, such as `matplotlib>=3.9`.

    It is empty where no metadata is installed.
    """
    try:
        listed = metadata.requires("hybrid-llm") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in listed:
        what, _, marker = line.partition(";")
        match = _EXTRA.search(marker)
        if (match["name"] if match else "") == extra:
            found.append(what.replace(" ", ""))
    return found
